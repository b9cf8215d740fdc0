"""
# Where does the model look?

While a picture is being made, every place of it attends to the words of the prompt. `AttentionMaps` adds that
attention up. What comes out is a heat map for each word: where in the picture the word was looked at. The maps are
made while sampling, beside the model's own computation, and the picture is the one you would get without them.
"""

# %%
# ## A map for every word
#
# `keep` says what is to stay apart instead of being summed over: here the steps and the layers.

import numpy as np

import sdprobe
from sdprobe import AttentionMaps, plot, sample

model = sdprobe.load()
maps = AttentionMaps(keep=("step", "layer"))
settings = {"steps": 25, "guidance_scale": 5.0, "seed": 0, "progress": False}
run = sample(model, "a red circle left of a blue square", hooks=[maps], **settings)
run

# %%
# The run holds what the hook recorded: `run[maps]`. Each heat map knows the picture it lies on. Each is shown on its
# own scale, from its least to its greatest value.

heats = run[maps].heat_maps()
cells = [heat.cell() for heat in heats.values()]
plot.sheet([[run.images[0], *cells]], columns=["picture", *heats])

# %%
# ## How good is a map?
#
# The objects have plain colours, so the picture itself says where each of them is: at the pixels whose colour is near
# to the one named. Against this mask a map can be measured: by intersection over union (IoU), after a threshold, or by
# whether its hottest place hits the object. The map of a phrase is the mean of its words' maps.

from sdprobe.shapes.drawing import COLOURS

pixels = np.asarray(run.images[0]).astype(float)
objects = {
    f"{colour} {shape}": np.linalg.norm(pixels - COLOURS[colour], axis=-1) < 90
    for colour, shape in (("red", "circle"), ("blue", "square"))
}
for phrase, mask in objects.items():
    heat = run[maps].heat_map(phrase)
    print(f"{phrase:12} IoU {heat.iou(mask):.2f}   hottest place on the object: {heat.points_into(mask)}")

# %%
# Object, map and thresholded map side by side:

rows = []
for phrase, mask in objects.items():
    heat = run[maps].heat_map(phrase)
    above = heat.resize(mask.shape).mask().float().numpy()
    rows.append([run.images[0], mask.astype(float), heat.cell(), above])
plot.sheet(rows, rows=list(objects), columns=["picture", "object", "heat map", "heat map > 0.4"])

# %%
# ## When does the model decide?
#
# Steps run from noise (step 0) to the picture. The maps of single steps show when a word finds its place.

run[maps].grid(by="step", words=["red circle", "blue square"], most=7)

# %%
# ## And in which layer?
#
# Not every layer binds words to places. Some attend to the word everywhere, or nowhere.

run[maps].grid(by="layer", words=["red circle", "blue square"])
