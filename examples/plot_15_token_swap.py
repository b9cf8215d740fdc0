"""
# Token replacement: swap one word

A `Transform` changes values in the loop. `ReplaceToken` is the smallest change of a prompt: for one word, the text
encoder gets another word's token embedding. The prompt, its length and the initial noise are the same, so every
difference in the picture comes from this one vector.
"""

# %%
# ## The same noise, another word

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, ReplaceToken, plot, sample

model = sdprobe.load()
prompt = "a red circle left of a blue square on a white background"
settings = {"steps": 25, "guidance_scale": 5.0, "seed": 0, "progress": False}
maps, latents = AttentionMaps(), LatentRecorder()

plain = sample(model, prompt, hooks=[maps, latents], **settings)
swaps = [("red", "green"), ("red", "yellow"), ("red", "purple"), ("circle", "star"), ("circle", "ring")]
swapped = {
    f"{word} → {other}": sample(model, prompt, hooks=[maps, latents, ReplaceToken(word, with_=other)], **settings)
    for word, other in swaps
}

# %%
# The maps use the words of the original prompt: in every run `"red circle"` is the same two token positions, one of
# which was swapped. One hook object was used in six runs; each run holds its own record.

runs = [plain, *swapped.values()]
# mkdocs_gallery_thumbnail_panel = 1
plot.sheet(
    [
        [run.images[0] for run in runs],
        [run[maps].heat_map("red circle").cell() for run in runs],
        [run[maps].heat_map("blue square").cell() for run in runs],
    ],
    rows=["picture", "“red circle”", "“blue square”"],
    columns=["no swap", *swapped],
)

# %%
# ## From which step the runs differ
#
# Both start from the same noise. The distance between their latents, step by step, shows from which step the swapped
# word matters.

from matplotlib.figure import Figure

figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
for name, style in {"red → green": "-", "red → purple": "--", "circle → star": ":"}.items():
    difference = swapped[name][latents]["latents"] - plain[latents]["latents"]
    ax.plot(difference.square().mean((1, 2, 3, 4)).sqrt(), style, label=name)
ax.set(xlabel="step", ylabel="root mean square difference\nof the latents")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure

# %%
# ## A swap equals writing the other word
#
# To give a word another word's embedding is, bit for bit, to write the other word:

written = sample(model, prompt.replace("red", "green"), **settings)
print(bool((written.latents == swapped["red → green"].latents).all()))
