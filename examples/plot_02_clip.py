"""
# Ask CLIP

CLIP (Radford et al. 2021) brings pictures and texts into one space, where the cosine between two vectors says how well
they go together. `sdprobe.clip` asks the embedded model's own CLIP; `sdprobe.clip.load` takes any other.
"""

# %%
# ## Which text goes with which picture?
#
# Six rendered scenes and their captions. The brightest number of a column should stand in the row of its own caption.

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

import sdprobe
from sdprobe import plot
from sdprobe.shapes import BACKGROUNDS, COLOURS, SHAPES, Object, render, scene

clip = sdprobe.clip.load()
scenes = [scene(80_000_000 + k, objects=1 + k % 2, full=True) for k in range(6)]
near = sdprobe.clip.similarity([own.image for own in scenes], [own.caption for own in scenes])
near.plot()

# %%
# Times the scale that CLIP learned along with its vectors, the cosines become logits, and their softmax over the texts
# says which of these texts it would choose. `near` prints both:

near

# %%
# ## Naming what was never named
#
# To classify without training is to compare a picture with a sentence for every class. Three hundred scenes that no
# training drew, each with one object:

fresh = [scene(81_000_000 + k, objects=1, full=True) for k in range(300)]
images = [own.image for own in fresh]
colours = sdprobe.clip.classify(images, list(COLOURS), template="a {} shape").best
shapes = sdprobe.clip.classify(images, SHAPES, template="a {}").best
truth = [own.objects[0] for own in fresh]
print(f"colour {np.mean([found == own.colour for found, own in zip(colours, truth, strict=True)]):.3f}")
print(f"shape  {np.mean([found == own.shape for found, own in zip(shapes, truth, strict=True)]):.3f}")

# %%
# A softmax has no “none of these”. Shown a colour that no word names, CLIP chooses all the same; only the cosines tell
# that nothing fits as well as a right answer does. The last two pictures are blue and green, for comparison.

tints = [(225, 30, 160), (170, 225, 40), (25, 120, 120), (130, 90, 50), (250, 170, 130)]
tints += [COLOURS["blue"], COLOURS["green"]]
pictures = [render([Object("circle", None, (32, 32), 17, tint)]).image for tint in tints]
near = sdprobe.clip.classify(pictures, list(COLOURS), template="a {} circle")
near.plot()

# %%
# The probabilities alone would not: lime and teal are called pink, with some confidence.

near.plot("probabilities")

# %%
# ## Arithmetic
#
# A difference of texts is a direction in the space that pictures share. Take a picture, go from "a red shape" to
# "a blue shape", and look up which of the fresh pictures is nearest to where one arrives.

vectors = clip.image_features(images)


def moved(k, old, new):
    """A picture's vector, moved by a difference of texts, and the nearest of all pictures."""
    before, after = clip.text_features([old, new])
    return int((vectors @ (vectors[k] - before + after)).argmax())


moves = []
for k in range(7):
    old = truth[k].colour
    new = list(COLOURS)[(list(COLOURS).index(old) + 3) % 8]
    moves.append((images[k], images[moved(k, f"a {old} shape", f"a {new} shape")], f"− {old}\n+ {new}"))
before, after, names = zip(*moves, strict=True)
plot.sheet(
    [before, after],
    rows=["picture", "nearest to\nthe result"],
    columns=names,
)

# %%
# How often does the nearest picture have the new colour, and the shape it had before?

rng = np.random.default_rng(0)
kept = []
for k, own in enumerate(truth):
    new = str(rng.choice([colour for colour in COLOURS if colour != own.colour]))
    found = truth[moved(k, f"a {own.colour} shape", f"a {new} shape")]
    kept.append((found.colour == new, found.shape == own.shape))
print("new colour {:.2f}, old shape {:.2f}".format(*np.mean(kept, axis=0)))

# %%
# ## Pooled against unpooled
#
# A text enters the common space by one vector: the state of its end token. Stable Diffusion is given all the states
# instead, one for each token. Below, the cosines between six texts: on the left of the pooled vector alone, on the
# right of all the states together.

texts = [
    "a red circle left of a blue square",
    "a blue square left of a red circle",
    "a blue circle left of a red square",
    "a red circle",
    "a blue square",
    "a green star",
]


def cosines(vectors):
    """Of each with each."""
    unit = F.normalize(vectors.flatten(1), dim=-1)
    return (unit @ unit.T).numpy()


sides = {
    "pooled": cosines(sdprobe.clip.pooled(texts)),
    "unpooled": cosines(sdprobe.clip.unpooled(texts)),
}
figure = Figure(figsize=(9, 3.6), layout="constrained")
for ax, (name, values) in zip(figure.subplots(1, 2, sharey=True), sides.items(), strict=True):
    ax.imshow(values, cmap=plot.HEAT, vmin=-0.7, vmax=1)
    for i, j in np.ndindex(*values.shape):
        ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color="k" if values[i, j] > 0.3 else "w", size=8)
    ax.set(title=name, xticks=range(6), xticklabels="abcdef", yticks=range(6))
    ax.set_yticklabels([f"{text}  {letter}" for text, letter in zip(texts, "abcdef", strict=True)])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
figure

# %%
# To the pooled vector a and b are one text: this CLIP hears which things there are, and what colour each has, but not
# which of them is on the left. The states still tell a from b. The vector that a picture is compared with has lost
# something that a denoiser could read.

# %%
# ## What is a vector close to?
#
# Before all this, a token is a row of a table. Which rows are nearest to a vector tells what it means. Of 663
# tokens these are nearest to the sum of two colours: the two, and one that lies between them.

red, yellow = (sdprobe.clip.token_vectors(word)[0] for word in ("red", "yellow"))
sdprobe.clip.nearest_tokens(red + yellow, k=3)

# %%
# The text encoder of the diffusion model has a table of its own. Textual inversion adds a row to it: here one for
# magenta, learned from pictures and beginning with the vector of "shape". What is it close to?

from sdprobe import learn_concept

model, magenta = sdprobe.load(), (225, 30, 160)
examples = []
for k in range(16):
    radius = rng.uniform(12, 19)
    x, y = rng.uniform(radius + 1.5, 62.5 - radius, 2)
    thing = Object(SHAPES[k % 6], None, (x, y), radius, magenta)
    examples.append(render([thing], list(BACKGROUNDS)[k % 4]).image)
concept = learn_concept(model, examples, "<hue>", init_word="shape", templates=["a {} shape"], steps=60, progress=False)
sdprobe.clip.nearest_tokens(concept, k=5, model=model)

# %%
# On the plane that holds most of what sets the colour words apart, they stand in a circle. Nobody told the model that
# colours have an order.

words = torch.cat([sdprobe.clip.token_vectors(word, model) for word in COLOURS])
words, learned = (F.normalize(rows, dim=-1) for rows in (words, concept.vectors["text_encoder"]))
middle = words.mean(0)
plane = torch.linalg.svd(words - middle, full_matrices=False).Vh[:2].T
figure = Figure(figsize=(4.5, 4), layout="constrained")
ax = figure.subplots()
for (name, rgb), (x, y) in zip(COLOURS.items(), (words - middle) @ plane, strict=True):
    ax.scatter(x, y, s=140, color=np.array(rgb) / 255)
    ax.annotate(name, (x, y), xytext=(9, -3), textcoords="offset points")
x, y = ((learned - middle) @ plane)[0]
ax.scatter(x, y, s=200, marker="*", color=np.array(magenta) / 255)
ax.annotate("<hue>", (x, y), xytext=(0, -16), textcoords="offset points", ha="center")
ax.set(xlabel="first direction", ylabel="second direction", xticks=[], yticks=[], aspect="equal")
ax.margins(0.15)
ax.spines[["top", "right"]].set_visible(False)
figure

# %%
# ## The loss CLIP is trained with
#
# In a batch, each picture is to find its text, and each text its picture. How sharply it has to choose is the logit
# scale, which is learned too. Where it came to rest is about where the loss of fresh pictures and captions is least:

captions = clip.text_features([own.caption for own in fresh[:64]])
scales = np.geomspace(1, 300, 40)
losses = [float(sdprobe.clip.info_nce(vectors[:64], captions, scale)) for scale in scales]
learned = float(clip.logit_scale)
figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
ax.semilogx(scales, losses)
ax.axhline(np.log(64), color="0.6", linestyle=":")
ax.text(300, np.log(64), "chance", ha="right", va="bottom", color="0.4")
ax.plot(learned, float(sdprobe.clip.info_nce(vectors[:64], captions, learned)), "o", label=f"learned: {learned:.0f}")
ax.set(xlabel="logit scale", ylabel="InfoNCE loss of 64 pairs", ylim=(0, None))
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure
