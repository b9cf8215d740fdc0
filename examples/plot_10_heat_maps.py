"""
# Cross-attention heat maps of words

While a picture is made, every position of it attends to the words of the prompt. `AttentionMaps` sums this attention.
The result is a heat map for each word: where in the picture the word was attended to. The maps are computed beside the
model's own computation, so the picture is the same as without them.
"""

# %%
# ## A map for every word
#
# Four pictures of one prompt. `keep` names what is kept apart instead of summed over: here the steps and the layers.

import numpy as np

import sdprobe
from sdprobe import AttentionMaps, plot, sample

model = sdprobe.load()
maps = AttentionMaps(keep=("step", "layer"))
prompt = "a red circle left of a blue square"
settings = {"steps": 25, "guidance_scale": 5.0, "seed": [0, 1, 2, 3], "progress": False}
run = sample(model, prompt, hooks=[maps], images_per_prompt=4, **settings)
run

# %%
# The run holds what the hook recorded: `run[maps]`. Each heat map belongs to one picture, and is drawn on its own
# scale, from its minimum to its maximum.

rows = []
for i, picture in enumerate(run.images):
    heats = run[maps].heat_maps(image=i)
    rows.append([picture, *(heat.cell() for heat in heats.values())])
# mkdocs_gallery_thumbnail_panel = 2
plot.sheet(rows, rows=[f"seed {seed}" for seed in run.seed], columns=["picture", *heats])

# %%
# ## Heat maps against object masks
#
# The objects have plain colours, so the picture itself shows where each object is: at the pixels near the colour that
# the prompt names. A map is compared with this mask in two ways: by intersection over union (IoU) after a threshold,
# and by whether the maximum of the map is on the object. The map of a phrase is the mean of the maps of its words.

from sdprobe.shapes.drawing import COLOURS


def pixels_near(picture, colour):
    """Where a picture has about this colour."""
    return np.linalg.norm(np.asarray(picture, float) - COLOURS[colour], axis=-1) < 90


rows, names = [], []
for i, picture in enumerate(run.images):
    for word in ("red", "blue"):
        heat, mask = run[maps].heat_map(word, image=i), pixels_near(picture, word)
        above = heat.resize(mask.shape).mask()
        rows.append([picture, mask.astype(float), heat.cell(), above.float().numpy()])
        names.append(f"{word}, seed {run.seed[i]}")
        print(f"{names[-1]:14} IoU {heat.iou(mask):.2f}   maximum inside: {heat.points_into(mask)}")

# %%
# Object and map for the first two pictures:

plot.sheet(rows[:4], rows=names[:4], columns=["picture", "pixels near", "heat map", "heat map > 0.4"])

# %%
# ## By step
#
# Steps run from noise (step 0) to the picture. The maps of single steps show at which step a word is bound to a
# position.

run[maps].grid(by="step", words=["red", "blue"], most=7)

# %%
# ## By layer
#
# Not every layer binds words to positions. Some attend to a word everywhere, or nowhere.

run[maps].grid(by="layer", words=["red", "circle", "blue", "square"])
