"""
# Textual inversion: learn a new word

The embedded model has eight words for colours. Here it learns a ninth, from sixteen pictures: textual inversion (Gal et
al. 2022) trains one new token embedding with the training loss of the model, and leaves the model as it is.
"""

# %%
# ## The pictures to learn from
#
# Shapes of every kind, at every position, on every background. What they have in common is a colour between pink, red
# and purple that no word names.

import textwrap

import numpy as np
from PIL import Image

import sdprobe
from sdprobe import AttentionMaps, UseConcept, learn_concept, plot, sample
from sdprobe.shapes import BACKGROUNDS, SHAPES, Object, render

magenta = (225, 30, 160)
rng = np.random.default_rng(0)
pictures = []
for k in range(16):
    radius = rng.uniform(12, 19)
    x, y = rng.uniform(radius + 1.5, 62.5 - radius, 2)
    thing = Object(SHAPES[k % 6], None, (x, y), radius, magenta)
    pictures.append(Image.fromarray(render([thing], list(BACKGROUNDS)[k % 4]).image))
plot.sheet([pictures[:8], pictures[8:]])

# %%
# ## Training the embedding
#
# The vector is initialised with that of "pink". Every step adds noise to four of the pictures, conditions the denoiser
# on "a &lt;hue&gt; shape", and takes a gradient step on the vector. The templates contain the word "shape", so that the
# new word need not stand for it. With a `checkpoint` the training can be interrupted and resumed, with bit-identical
# results.

model = sdprobe.load()
settings = {
    "init_word": "pink",
    "templates": ["a {} shape", "a photo of a {} shape", "a drawing of a {} shape"],
    "steps": 150,
    "progress": False,
}
concept = learn_concept(model, pictures, "<hue>", **settings)
concept

# %%
# The concept keeps the loss of every step. The loss depends mostly on the noise that was drawn. So it is compared with
# the loss of a vector that is not trained: with the same seed and a learning rate of nearly zero, the same noise is
# drawn for the same pictures.

from matplotlib.figure import Figure

still = learn_concept(model, pictures, "<hue>", lr=1e-9, **settings)
gain = np.subtract(still.losses, concept.losses)
window = 20
figure = Figure(figsize=(8, 3), layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(concept.losses, ".", markersize=4)
left.set(xlabel="step", ylabel="squared error of v", ylim=(0, None), title="“<hue>”, learning")
right.plot(gain, ".", color="0.7", markersize=4, label="a step")
middle = np.arange(window - 1, len(gain)) - (window - 1) / 2
right.plot(middle, np.convolve(gain, np.ones(window) / window, "valid"), label=f"mean of {window}")
right.set(xlabel="step", ylabel="error saved against “pink”", title="the same, on the same noise")
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
figure

# %%
# ## The word in new prompts
#
# `UseConcept` gives the prompts of a run the new word; afterwards tokenizer and encoder are as they were. The prompts
# below are not among the templates. Each column starts from the same noise.

prompts = [
    "a {} star",
    "a {} ring on a black background",
    "a {} square on a grey background",
    "a large {} triangle",
    "a {} circle left of a blue square",
    "a green cross above a {} circle",
]
settings = {"steps": 20, "guidance_scale": 5.0, "seed": [3, 4, 5, 6, 11, 8], "progress": False}
maps = AttentionMaps()
before = sample(model, [text.format("pink") for text in prompts], **settings)
after = sample(model, [text.format("<hue>") for text in prompts], hooks=[UseConcept(concept), maps], **settings)
heat = [after[maps].heat_map("<hue>", image=k) for k in range(len(prompts))]
# mkdocs_gallery_thumbnail_panel = 6
plot.sheet(
    [before.images, after.images, [own.cell() for own in heat]],
    rows=["“pink”", "“<hue>”", "map of “<hue>”"],
    columns=["\n".join(textwrap.wrap(text.format("…"), 16)) for text in prompts],
)

# %%
# The distance between the drawn colour and the learned one. In pictures of one object, all pixels that are not grey
# belong to the object.


def distance(picture):
    """From the learned colour to the median of what is not grey, in steps of 0 to 255."""
    pixels = np.asarray(picture, dtype=float)
    tinted = np.ptp(pixels, axis=-1)
    drawn = np.median(pixels[tinted > np.quantile(tinted, 0.99) / 2], axis=0)
    return np.linalg.norm(drawn - magenta)


for word, run in {"pink": before, "<hue>": after}.items():
    print(f"{word:6}", *(f"{distance(picture):4.0f}" for picture in run.images[:4]))
