"""
# CLIP: similarity, zero-shot classification, nearest tokens

CLIP (Radford et al. 2021) maps pictures and texts into one space, where the cosine between two vectors says how well
they match. `sdprobe.clip` uses the CLIP of the embedded model; `sdprobe.clip.load` loads any other.
"""

# %%
# ## Similarity of pictures and texts
#
# Six rendered scenes and their captions. The largest number of each column should be in the row of its own caption.

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

import sdprobe
from sdprobe import plot
from sdprobe.shapes import BACKGROUNDS, COLOURS, SHAPES, Object, render, scene

clip = sdprobe.clip.load()
scenes = [scene(80_000_000 + k, objects=1 + k % 2, full=True) for k in range(6)]
# mkdocs_gallery_thumbnail_panel = 0
near = sdprobe.clip.similarity([own.image for own in scenes], [own.caption for own in scenes])
near.plot()

# %%
# The cosines, multiplied by the scale that CLIP learned in training, are logits. Their softmax over the texts is the
# probability of each text. `near` prints both:

near

# %%
# ## Zero-shot classification
#
# Zero-shot classification compares a picture with one sentence for every class; nothing is trained. Here it is tried on
# three hundred scenes with one object each, none of them from the training data:

fresh = [scene(81_000_000 + k, objects=1, full=True) for k in range(300)]
images = [own.image for own in fresh]
colours = sdprobe.clip.classify(images, list(COLOURS), template="a {} shape").best
shapes = sdprobe.clip.classify(images, SHAPES, template="a {}").best
truth = [own.objects[0] for own in fresh]
print(f"colour {np.mean([found == own.colour for found, own in zip(colours, truth, strict=True)]):.3f}")
print(f"shape  {np.mean([found == own.shape for found, own in zip(shapes, truth, strict=True)]):.3f}")

# %%
# A softmax has no class “none of these”. For a colour that no word names, CLIP still gives a high probability to one of
# the words; only the cosines show that nothing fits as well as a right answer does. The last two pictures are blue and
# green, for comparison.

tints = [(225, 30, 160), (170, 225, 40), (25, 120, 120), (130, 90, 50), (250, 170, 130)]
tints += [COLOURS["blue"], COLOURS["green"]]
pictures = [render([Object("circle", None, (32, 32), 17, tint)]).image for tint in tints]
near = sdprobe.clip.classify(pictures, list(COLOURS), template="a {} circle")
near.plot()

# %%
# The probabilities alone do not show it: lime and teal get “pink”, with high probability.

near.plot("probabilities")

# %%
# ## Arithmetic with texts
#
# A difference of two texts is a direction in the space of pictures and texts. Start from the vector of a picture, add
# the difference of "a blue shape" and "a red shape", and find the picture whose vector is nearest to the sum.

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
# ## Pooled and unpooled text
#
# CLIP represents a text by one vector: the state of its end token. Stable Diffusion gets the states of all tokens
# instead. Below are the cosines between six texts: on the left of the pooled vectors, on the right of all states.

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
# For the pooled vector, a and b are nearly the same text: this CLIP encodes which things there are and their colours,
# but not which of them is on the left. The states of all tokens differ. The pooled vector, which is compared with
# pictures, has lost information that a denoiser could use.

# %%
# ## Nearest tokens
#
# The input of the encoder is a table with one row for each token. The rows nearest to a vector tell what the vector
# means. Of 663 tokens, these are nearest to the sum of two colours: the two themselves, and one between them.

red, yellow = (sdprobe.clip.token_vectors(word)[0] for word in ("red", "yellow"))
sdprobe.clip.nearest_tokens(red + yellow, k=3)

# %%
# The text encoder of the diffusion model has its own table. Textual inversion adds a row to it: here one for magenta,
# learned from pictures, initialised with the vector of "shape". Which tokens are nearest to it?

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
# Projected on the first two principal components of the colour words, the colours are in the order of the colour
# circle. The training data does not contain this order.

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
# ## The training loss of CLIP
#
# In a batch, each picture is classified among all texts, and each text among all pictures. The logit scale sets how
# sharp this classification is, and it is learned too. Its learned value is near the minimum of the loss on new pictures
# and captions:

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
