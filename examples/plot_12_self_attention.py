"""
# Self-attention maps

In cross-attention, positions of the picture attend to words. In self-attention they attend to each other, and a
position on an object attends to the rest of that object. No training label says what an object is.
"""

# %%
# ## Attention from one position
#
# `SelfAttentionMaps` keeps one matrix for each grid: from every position to every other, the mean over layers, heads
# and steps. A row of it is a heat map. Four positions, marked by a ring: two objects and two corners of the background.

import numpy as np
import torch
from matplotlib.figure import Figure

import sdprobe
from sdprobe import AttentionMaps, SelfAttentionMaps, plot, sample
from sdprobe.shapes import detect

model = sdprobe.load()
looks, maps = SelfAttentionMaps(), AttentionMaps()
prompt = "a green cross left of an orange circle on a white background"
run = sample(model, prompt, hooks=[looks, maps], steps=25, guidance_scale=5.0, seed=3, progress=False)
seen = run[looks]

things = detect(np.asarray(run.images[0]))
centres = {thing.colour: np.argwhere(thing.mask).mean(0) / 4 for thing in things}  # a position is four pixels wide
positions = {name: tuple(int(v) for v in centre) for name, centre in centres.items()}
positions |= {"upper corner": (1, 1), "lower corner": (14, 14)}
# mkdocs_gallery_thumbnail_panel = 1
figure = plot.sheet(
    [[run.images[0], *(seen.heat_map(position).cell() for position in positions.values())]],
    columns=["picture", *(f"from {name}" for name in positions)],
)
for ax, (row, column) in zip(figure.axes[1:], positions.values(), strict=True):
    ax.plot(4 * column + 1.5, 4 * row + 1.5, "o", markersize=7, markeredgecolor="white", markerfacecolor="none")
figure

# %%
# ## Components of the self-attention matrix
#
# The leading components of the matrix, drawn as by Hertz et al. (2022), separate the objects from the background, and
# then from each other: at 16 × 16, where this model represents outlines. At 8 × 8 this is hardly visible.

plot.sheet(
    [[part.normalized().values.numpy() for part in seen.components(5, grid=grid)] for grid in (16, 8)],
    rows=["16 × 16", "8 × 8"],
    columns=[f"component {k}" for k in range(5)],
)

# %%
# ## Heat maps refined by self-attention
#
# If the positions of one object attend to each other, self-attention can spread the heat map of a word over the object:
# each position takes the mean of the map over the positions it attends to. This is a product with the self-attention
# matrix, here applied once and three times.

matrix = seen.matrix(grid=16)
truth = {thing.colour: thing.mask for thing in things}


def spread(heat, times):
    """The heat map, multiplied by the self-attention matrix."""
    values = heat.resize((16, 16)).values.flatten()
    for _ in range(times):
        values = matrix @ values
    return sdprobe.HeatMap(values.unflatten(0, (16, 16)), heat.word, heat.picture)


rows = {word: [spread(run[maps].heat_map(word), times) for times in (0, 1, 3)] for word in ("green", "orange")}
plot.sheet(
    [[run.images[0], *(heat.cell() for heat in heats), truth[word].astype(float)] for word, heats in rows.items()],
    rows=[f"“{word}”" for word in rows],
    columns=["picture", "heat map", "spread once", "three times", "the object"],
)

# %%
# This brings the map nearer to its object, in the mean over eight pictures and at nearly every threshold. Three times
# changes little more than once.

several = {"images_per_prompt": 8, "seed": list(range(8))}
run = sample(model, prompt, hooks=[looks, maps], steps=25, guidance_scale=5.0, progress=False, **several)
thresholds = np.linspace(0.05, 0.9, 18)
scores = {times: [] for times in (0, 1, 3)}
for i, picture in enumerate(run.images):
    matrix = run[looks].matrix(i, grid=16)
    for thing in detect(np.asarray(picture)):
        if thing.colour in ("green", "orange"):
            heat = run[maps].heat_map(thing.colour, image=i)
            for times, found in scores.items():
                found.append([spread(heat, times).iou(thing.mask, threshold) for threshold in thresholds])

figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
labels = {0: "heat map", 1: "spread once", 3: "three times"}
for (times, found), style in zip(scores.items(), ("-", "--", ":"), strict=True):
    ax.plot(thresholds, np.mean(found, axis=0), style, color="black", label=labels[times])
ax.set(xlabel="threshold of the normalised map", ylabel="mean IoU with the object", ylim=(0, 1))
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure

# %%
# Every row of the matrix is a distribution:

print(torch.allclose(matrix.sum(-1), torch.ones(256), atol=1e-5))
