"""
# Swap one word

A `Transform` changes what flows through the loop. `ReplaceToken` makes the smallest change a prompt can have: at one
word, the text encoder is given another word's embedding. The prompt, its length and the initial noise stay as they
are, so whatever differs in the picture comes from this one vector.
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
# The maps are read by the prompt's own words: in every run `"red circle"` are the two token positions one of which was
# swapped. One hook object served six runs; each run holds its own record.

runs = [plain, *swapped.values()]
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
# ## When do the two runs part?
#
# Both begin with the same noise. The distance between their latents, step by step, tells when the swapped word
# begins to matter.

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
# ## A swap is what it says
#
# Giving the word another word's embedding is, to the last bit, writing the other word:

written = sample(model, prompt.replace("red", "green"), **settings)
print(bool((written.latents == swapped["red → green"].latents).all()))
