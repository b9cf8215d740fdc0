"""
# Regional prompts: what should be where

Four ways to say where a thing should be: a prompt for each region, words that are hidden outside of their region, words
whose attention is concentrated, and words alone.
"""

# %%
# ## Four ways
#
# The regions are the two halves of the picture. The detector of the embedded model counts how often the red circle is
# in the left half and the blue square in the right.

import numpy as np
import torch

import sdprobe
from sdprobe import Concentrate, HideTokens, RegionalPrompts, plot, sample
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
    "concentrated": [Concentrate({"red circle": left, "blue square": right})],
    "a prompt\nfor each region": [RegionalPrompts({"a red circle": left, "a blue square": right})],
}


def in_place(image):
    """Whether the red circle is in the left half, and the blue square in the right."""
    found = {(own.colour, own.shape): own.centre[0] for own in detect(np.asarray(image))}
    return found.get(("red", "circle"), 64) < 32 <= found.get(("blue", "square"), 0)


runs = {name: sample(model, [prompt] * 12, hooks=hooks, seed=seeds, **settings) for name, hooks in ways.items()}
plot.sheet(
    [[run.images[k] for run in runs.values()] for k in range(4)],
    columns=[f"{name}\n{sum(map(in_place, run.images))} of 12" for name, run in runs.items()],
)
