"""
# Layout guidance: an object inside a box

A prompt says what is in a picture, and only roughly where. Before a step, `LayoutGuidance` computes the cross-attention
to a word, and changes the latents until this attention is inside a box. Nothing is trained.
"""

# %%
# ## With and without a box
#
# Sixteen seeds of a red circle, which has to be in the upper left quarter of the picture. Two steps of ten are changed:
# the position of an object is decided early.

import numpy as np
from matplotlib.patches import Rectangle

import sdprobe
from sdprobe import AttentionMaps, LayoutGuidance, plot, sample
from sdprobe.shapes import detect

model = sdprobe.load()
settings = {"steps": 10, "guidance_scale": 3.0, "seed": list(range(16)), "images_per_prompt": 16, "progress": False}
box = (0.0, 0.0, 0.5, 0.5)
layout, maps = LayoutGuidance({"circle": box}), AttentionMaps(words=["circle"], grids=[16], keep="step")
before = sample(model, "a red circle", hooks=[maps], **settings)
after = sample(model, "a red circle", hooks=[layout, maps], **settings)
runs = {"no guidance": before, "with a box": after}


def outlined(figure, *boxes):
    """The figure with boxes drawn on each of its panels."""
    for ax in figure.axes:
        for left, top, right, bottom in boxes:
            ax.add_patch(Rectangle((64 * left - 0.5, 64 * top - 0.5), 64 * (right - left), 64 * (bottom - top), **LINE))
    return figure


LINE = {"fill": False, "edgecolor": "#56b4e9", "linestyle": "--", "linewidth": 1.2}
seeds = [f"seed {k}" for k in range(8)]
# mkdocs_gallery_thumbnail_panel = 8
outlined(plot.sheet([run.images[:8] for run in runs.values()], list(runs), seeds), box)

# %%
# ## Measured with a detector
#
# The pictures have plain colours, so a detector finds the pixels of the circle. How many of them are inside the box,
# and how well does the circle's bounding box match the given box (intersection over union)? A circle that fills the box
# has an IoU of 1; a smaller one inside it has less.


def fit(picture, colour, own):
    """The share of a thing's pixels inside its box, and the IoU of its frame with the box; 0 where there is none."""
    masks = [found.mask for found in detect(np.asarray(picture)) if found.colour == colour]
    if not masks:
        return 0.0, 0.0
    thing = np.logical_or.reduce(masks)
    inside, frame = np.zeros((2, 64, 64), dtype=bool)
    left, top, right, bottom = (round(64 * share) for share in own)
    inside[top:bottom, left:right] = True
    rows, columns = np.nonzero(thing)
    frame[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return (thing & inside).sum() / thing.sum(), (frame & inside).sum() / (frame | inside).sum()


for name, run in runs.items():
    share, iou = np.mean([fit(picture, "red", box) for picture in run.images], axis=0)
    print(f"{name:12} inside the box {share:.2f}, IoU of the frame with the box {iou:.2f}")

# %%
# ## Heat maps of the word
#
# `AttentionMaps` records the calls of the loop, which see the latents after the change. The maps of “circle” by step,
# for one seed: with a box, the attention to the word is inside it from the first step on.

steps = [0, 1, 2, 4, 6, 9]
cells = [
    [run.images[0], *((None, run[maps].heat_map("circle", step=step).normalized().values.numpy()) for step in steps)]
    for run in runs.values()
]
plot.sheet(cells, rows=list(runs), columns=["picture", *(f"step {step}" for step in steps)])

# %%
# The loss before each step, and how often the latents were changed:

after[layout].plot()

# %%
# ## Two boxes
#
# Each word has its own box. Boxes can contradict the prompt: here the prompt says left, the boxes say right.

prompt = "a red circle left of a blue square"
boxes = {"circle": (0.5, 0.25, 1.0, 0.75), "square": (0.0, 0.25, 0.5, 0.75)}
colours = {"circle": "red", "square": "blue"}
pushes = {"no boxes": [], "two boxes": [LayoutGuidance(boxes, 60, stop=3)]}
pairs = {name: sample(model, prompt, hooks=hooks, **settings) for name, hooks in pushes.items()}
for name, run in pairs.items():
    for word, own in boxes.items():
        share, iou = np.mean([fit(picture, colours[word], own) for picture in run.images], axis=0)
        print(f"{name:10} {word:7} inside its box {share:.2f}, IoU of the frame with the box {iou:.2f}")
outlined(plot.sheet([run.images[:8] for run in pairs.values()], list(pairs), seeds), *boxes.values())

# %%
# ## The scale
#
# A tenth of the default scale moves the circle part of the way. Ten times the default moves it no further, and changes
# more of the background.

few = settings | {"seed": list(range(8)), "images_per_prompt": 8}
scales = [3, 30, 300]
strengths = {s: sample(model, "a red circle", hooks=[LayoutGuidance({"circle": box}, s)], **few) for s in scales}
for scale, run in strengths.items():
    print(f"scale {scale:3}: inside the box {np.mean([fit(picture, 'red', box)[0] for picture in run.images]):.2f}")
outlined(plot.sheet([run.images for run in strengths.values()], [f"scale {scale}" for scale in scales], seeds), box)
