"""
# Teach it a word

The embedded model has eight words for colours. Here it learns a ninth, from sixteen pictures: textual inversion (Gal et
al. 2022) fits one new token embedding by the loss the model was trained with, and leaves the model as it is.
"""

# %%
# ## What to learn
#
# Shapes of every kind, in every place, on every background. What they share is a colour between pink, red and purple
# that no word names.

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
# ## Learning
#
# The vector begins as that of "pink". Every step noises four of the pictures, tells the denoiser of "a &lt;hue&gt;
# shape", and moves the vector to where the denoiser errs less. The captions say "shape", so that the word need not.
# With a `checkpoint` the learning could be interrupted, and resumed to the same bits.

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
# The concept keeps the loss of every step. How large that is depends above all on which noise was drawn, so it is
# compared with that of a vector that stays where it began: with the same seed, and with steps too short to count, the
# same noise is drawn for the same pictures.

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
# `UseConcept` gives the prompts of a run the new word; afterwards tokenizer and encoder are as they were. The captions
# below were not among those learned from. Each column begins with one noise.

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
plot.sheet(
    [before.images, after.images, [own.cell() for own in heat]],
    rows=["“pink”", "“<hue>”", "where “<hue>” acts"],
    columns=["\n".join(textwrap.wrap(text.format("…"), 16)) for text in prompts],
)

# %%
# How far is what was drawn from the colour it should have? In pictures of one object, all that is not grey is the
# object.


def distance(picture):
    """From the learned colour to the median of what is not grey, in steps of 0 to 255."""
    pixels = np.asarray(picture, dtype=float)
    tinted = np.ptp(pixels, axis=-1)
    drawn = np.median(pixels[tinted > np.quantile(tinted, 0.99) / 2], axis=0)
    return np.linalg.norm(drawn - magenta)


for word, run in {"pink": before, "<hue>": after}.items():
    print(f"{word:6}", *(f"{distance(picture):4.0f}" for picture in run.images[:4]))
