"""
# Regional prompts: what should be where

Ways to say where a thing should be: words alone, words that are hidden outside of their region, words whose attention
is concentrated, and a prompt for each region.
"""

# %%
# ## Ways to say where
#
# The regions are the two halves of the picture. The detector of the embedded model counts how often the red circle is
# in the left half and the blue square in the right.

import numpy as np
import torch

import sdprobe
from sdprobe import Concentrate, HideTokens, RegionalPrompts, ShareAttention, plot, sample
from sdprobe.shapes import detect

model = sdprobe.load()
settings = {"steps": 12, "guidance_scale": 5.0, "progress": False}
seeds = list(range(12))
left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
left_half = torch.arange(64).expand(64, 64) < 32
prompt = "a red circle and a blue square"

ways = {
    "words alone": [],
    "hidden elsewhere": [
        HideTokens(["red", "circle"], places=~left_half),
        HideTokens(["blue", "square"], places=left_half),
    ],
    "concentrated": [Concentrate({"red circle": left, "blue square": right}, strength=0.25)],
    "a prompt for\neach region": [RegionalPrompts({"a red circle": left, "a blue square": right})],
    "and half of\nthe whole": [RegionalPrompts({"a red circle": left, "a blue square": right}, base=0.5)],
}


def in_place(image):
    """Whether the red circle is in the left half, and the blue square in the right."""
    found = {(own.colour, own.shape): own.centre[0] for own in detect(np.asarray(image))}
    return found.get(("red", "circle"), 64) < 32 <= found.get(("blue", "square"), 0)


def sheet(runs, shown=4):
    """The first pictures of each way, under how many are in their place."""
    return plot.sheet(
        [[run.images[k] for run in runs.values()] for k in range(shown)],
        columns=[f"{name}\n{sum(map(in_place, run.images))} of {len(seeds)}" for name, run in runs.items()],
    )


prompts = [prompt] * len(seeds)
# mkdocs_gallery_thumbnail_panel = 0
sheet({name: sample(model, prompts, hooks=hooks, seed=seeds, **settings) for name, hooks in ways.items()})

# %%
# A prompt for each region is not enough by itself: the regions meet in self-attention, and one thing grows over the
# border. With half of the run's own prompt, or where each region's prompt tells the whole scene, they keep apart. Words
# that are hidden, or concentrated, are words of one prompt; they work in joint attention too, where no second prompt
# can be put in.
#
# ## The regions decide, not the prompt
#
# The prompt asks for the opposite order. The words keep to their regions all the same.

opposite = ["a blue square left of a red circle"] * len(seeds)
sheet({name: sample(model, opposite, hooks=hooks, seed=seeds, **settings) for name, hooks in ways.items()})

# %%
# ## A region of any form
#
# A region may be a mask. Here the background's prompt and that of a disc in the middle.

y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
disc = (x - 32) ** 2 + (y - 32) ** 2 < 18**2
disc_only = RegionalPrompts({"a red star": disc}, base=0.3)
runs = [
    sample(model, ["a ring on a black background"] * 4, hooks=hooks, seed=[0, 1, 2, 3], **settings)
    for hooks in ([], [disc_only])
]
plot.sheet([run.images for run in runs], rows=["prompt alone", "a star in\nthe middle"])

# %%
# ## One style for several pictures
#
# `ShareAttention` lets the pictures of a run look at the first of them, in self-attention. Its prompt names a
# background, and those of the others do not: they take it over.

shapes = ["a yellow circle on a striped background", "a red star", "a blue ring", "a green triangle"]
ways = {"each alone": [], "shared with\nthe first": [ShareAttention()], "weight 3": [ShareAttention(weight=3.0)]}
rows = [
    sample(model, shapes, hooks=hooks, seed=[4 * seed + k for k in range(4)], **settings).images
    for seed in range(2)
    for hooks in ways.values()
]
plot.sheet(rows, rows=[*ways] * 2, columns=["the first", *shapes[1:]])
