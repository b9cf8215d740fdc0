"""
# Heat maps against ground truth

A heat map shows where a word was attended to. Is this where the word's object is? For photographs this needs
annotations by people. For the coloured shapes of the embedded model the ground truth is known, and so are the controls
that a map must be better than.
"""

# %%
# ## Two kinds of map
#
# `"mean"` is the mean probability over all sites, heads and steps. `"daam"` is the map of Tang et al. (2023): layers
# and heads are resized one by one, the middle block is left out. The prompts are captions of scenes that are not in the
# training data; a detector finds each object in the generated picture.

import numpy as np
import torch
from matplotlib.figure import Figure

import sdprobe
from sdprobe import AttentionMaps, plot, sample
from sdprobe.shapes import detect, scene

model = sdprobe.load()
maps = AttentionMaps(keep=("layer", "head"))
captions = [scene(80_000_100 + k, objects=2, full=True) for k in range(16)]
prompts = [own.caption for own in captions]
run = sample(model, prompts, hooks=[maps], steps=20, guidance_scale=5.0, seed=list(range(16)), progress=False)
own = run[maps]

cases = []
for i, picture in enumerate(run.images):
    drawn = {thing.colour: thing.mask for thing in detect(np.asarray(picture))}
    wanted = [thing.colour for thing in captions[i].objects]
    cases += [(i, word, other, drawn[word]) for word, other in (wanted, wanted[::-1]) if word in drawn]

rows = []
for i, word, _, mask in cases[:8:2]:
    kinds = (own.heat_map(word, image=i, method=method) for method in ("mean", "daam"))
    rows.append([run.images[i], mask.astype(float), *(heat.cell() for heat in kinds)])
# mkdocs_gallery_thumbnail_panel = 2
plot.sheet(rows, rows=[f"“{word}”" for _, word, *_ in cases[:8:2]], columns=["picture", "truth", "mean", "daam"])

# %%
# ## IoU and controls
#
# A threshold makes a mask from a map. The overlap of two masks is their intersection over union (IoU). It depends on
# the threshold, so it is drawn as a curve over all thresholds. The controls are the map of the *other* object's colour,
# the map of the start token, which is in every prompt, and a Gaussian in the middle, which does not depend on the
# picture.

y, x = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
spot = sdprobe.HeatMap(torch.exp(-2 * (x**2 + y**2)))
kinds = {
    "mean": lambda i, word, other: own.heat_map(word, image=i),
    "daam": lambda i, word, other: own.heat_map(word, image=i, method="daam"),
    "the other word": lambda i, word, other: own.heat_map(other, image=i),
    "start token": lambda i, word, other: own.heat_map("<start>", image=i),
    "Gaussian in the middle": lambda i, word, other: spot,
}
thresholds = np.linspace(0.05, 0.95, 19)
curves, points = {}, {}
for name, kind in kinds.items():
    heats = [(kind(i, word, other), mask) for i, word, other, mask in cases]
    curves[name] = np.mean([[heat.iou(mask, level) for level in thresholds] for heat, mask in heats], axis=0)
    points[name] = np.mean([heat.points_into(mask) for heat, mask in heats])

figure = Figure(figsize=(6.5, 3.2), layout="constrained")
ax = figure.subplots()
lines = {"mean": ("black", "-"), "daam": ("black", "--")}
for name, style in zip(list(kinds)[2:], ("-", "--", ":"), strict=True):
    lines[name] = ("0.6", style)
for name, (color, style) in lines.items():
    ax.plot(thresholds, curves[name], style, color=color, label=name)
ax.set(xlabel="threshold of the normalised map", ylabel=f"mean IoU of {len(cases)} objects", ylim=(0, 0.8))
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
figure

# %%
# The pointing game (Zhang et al. 2016) needs no threshold: is the maximum of the map on the object?

for name in kinds:
    print(f"{name:22} best IoU {curves[name].max():.2f}   maximum inside {points[name]:.2f}")

# %%
# ## Colour words and shape words
#
# The words of a noun phrase are not equally well localised. The threshold is the one that is best for all colour words.

level = float(thresholds[curves["mean"].argmax()])
parts = {"colour": [], "shape": [], "both": []}
for i, word, _, mask in cases:
    shape = next(thing.shape for thing in captions[i].objects if thing.colour == word)
    if shape in run.prompts[i].words and len(run.prompts[i].occurrences(shape)) == 1:
        for part, said in zip(parts, (word, shape, f"{word} {shape}"), strict=True):
            parts[part].append(own.heat_map(said, image=i).iou(mask, level))
for part, found in parts.items():
    print(f"{part:7} mean IoU {np.mean(found):.2f}")

# %%
# ## Maps of given pictures
#
# A given picture has no run. `look` adds noise of one level to it and calls the denoiser once. Here the pictures are
# rendered, so the masks are exact. Which noise level gives the best maps? A low one: a map cannot be sharper than what
# the denoiser can still recognise.

timesteps = [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]
images = [own.image for own in captions]
scores = []
for timestep in timesteps:
    looked = sdprobe.look(model, images, prompts, timestep, hooks=[maps], seed=list(range(16)))
    scores.append(
        [
            looked[maps].heat_map(thing.colour, image=i).iou(mask, level)
            for i, own_scene in enumerate(captions)
            for thing, mask in zip(own_scene.objects, own_scene.masks, strict=True)
        ]
    )
figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
ax.plot(timesteps, np.mean(scores, axis=1), "o-", color="black", markersize=4)
ax.set(xlabel="timestep (noise grows to the right)", ylabel="mean IoU with the true mask", ylim=(0, 0.8))
ax.spines[["top", "right"]].set_visible(False)
figure
