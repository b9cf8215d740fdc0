"""
# The picture looks at itself

In cross-attention places look at words. In self-attention they look at each other, and a place that belongs to a thing
looks at the rest of that thing. Nobody told the model what a thing is.
"""

# %%
# ## Where does a place look?
#
# `SelfAttentionMaps` keeps one matrix for each grid: from every place to every other, the mean over layers, heads and
# steps. A row of it is a heat map. Four places, marked by a ring: two objects and two corners of the background.

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
centres = {thing.colour: np.argwhere(thing.mask).mean(0) / 4 for thing in things}  # one place is four pixels
places = {name: tuple(int(v) for v in centre) for name, centre in centres.items()}
places |= {"upper corner": (1, 1), "lower corner": (14, 14)}
figure = plot.sheet(
    [[run.images[0], *(seen.heat_map(place).cell() for place in places.values())]],
    columns=["picture", *(f"from {name}" for name in places)],
)
for ax, (row, column) in zip(figure.axes[1:], places.values(), strict=True):
    ax.plot(4 * column + 1.5, 4 * row + 1.5, "o", markersize=7, markeredgecolor="white", markerfacecolor="none")
figure

# %%
# ## Without any question
#
# The matrix has a spectrum. Its leading components, as Hertz et al. (2022) draw them, tell the things from the
# background, and then from each other: at 16 × 16, where this model keeps outlines. At 8 × 8 little is left of them.

plot.sheet(
    [[part.normalized().values.numpy() for part in seen.components(5, grid=grid)] for grid in (16, 8)],
    rows=["16 × 16", "8 × 8"],
    columns=[f"component {k}" for k in range(5)],
)

# %%
# ## Sharper heat maps
#
# If places of one thing look at each other, a word's heat map can be sent along: each place takes the mean of the map
# over the places that it looks at. This is a product with the self-attention matrix, here once and three times.

matrix = seen.matrix(grid=16)
truth = {thing.colour: thing.mask for thing in things}


def spread(heat, times):
    """The heat map, sent along self-attention."""
    values = heat.resize((16, 16)).values.flatten()
    for _ in range(times):
        values = matrix @ values
    return sdprobe.HeatMap(values.unflatten(0, (16, 16)), heat.word, heat.picture)


rows = {word: [spread(run[maps].heat_map(word), times) for times in (0, 1, 3)] for word in ("green", "orange")}
plot.sheet(
    [[run.images[0], *(heat.cell() for heat in heats), truth[word].astype(float)] for word, heats in rows.items()],
    rows=[f"“{word}”" for word in rows],
    columns=["picture", "heat map", "sent along once", "three times", "the object"],
)

# %%
# It brings a map nearer to its object, in the mean of eight pictures and at nearly every threshold. To send it along
# three times changes little more.

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
labels = {0: "heat map", 1: "sent along once", 3: "three times"}
for (times, found), style in zip(scores.items(), ("-", "--", ":"), strict=True):
    ax.plot(thresholds, np.mean(found, axis=0), style, color="black", label=labels[times])
ax.set(xlabel="threshold of the normalised map", ylabel="mean IoU with the object", ylim=(0, 1))
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure

# %%
# Every row of the matrix is a distribution:

print(torch.allclose(matrix.sum(-1), torch.ones(256), atol=1e-5))
