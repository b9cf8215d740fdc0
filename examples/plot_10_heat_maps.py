"""
# Where does the model look?

While a picture is being made, every place of it attends to the words of the prompt. `AttentionMaps` adds that
attention up. What comes out is a heat map for each word: where in the picture the word was looked at. The maps are
made while sampling, beside the model's own computation, and the picture is the one you would get without them.
"""

# %%
# ## A map for every word
#
# Four pictures of one prompt. `keep` says what is to stay apart instead of being summed over: here the steps and the
# layers.

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
# The run holds what the hook recorded: `run[maps]`. Each heat map knows the picture it lies on, and is shown on its
# own scale, from its least to its greatest value.

rows = []
for i, picture in enumerate(run.images):
    heats = run[maps].heat_maps(image=i)
    rows.append([picture, *(heat.cell() for heat in heats.values())])
plot.sheet(rows, rows=[f"seed {seed}" for seed in run.seed], columns=["picture", *heats])

# %%
# ## How good is a map?
#
# The objects have plain colours, so the picture itself says where each of them is: at the pixels whose colour is near
# to the one named. Against this mask a map can be measured: by intersection over union (IoU), after a threshold, or by
# whether its hottest place hits the object. The map of a phrase is the mean of its words' maps.

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
        print(f"{names[-1]:14} IoU {heat.iou(mask):.2f}   hottest place inside: {heat.points_into(mask)}")

# %%
# Of the first two pictures, object and map side by side:

plot.sheet(rows[:4], rows=names[:4], columns=["picture", "pixels near", "heat map", "heat map > 0.4"])

# %%
# ## When does the model decide?
#
# Steps run from noise (step 0) to the picture. The maps of single steps show when a word finds its place.

run[maps].grid(by="step", words=["red", "blue"], most=7)

# %%
# ## And in which layer?
#
# Not every layer binds words to places. Some attend to a word everywhere, or nowhere.

run[maps].grid(by="layer", words=["red", "circle", "blue", "square"])
