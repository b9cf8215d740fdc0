"""
# Steering along a mean difference

The mean activation in runs of “blue” minus that in runs of “red” is a direction. Added to the activations of other
runs, it should make red things blue (Turner et al. 2023, Rimsky et al. 2024). Whether it is the direction that does it,
and not its length, is for the controls to show.
"""

# %%
# ## The direction
#
# It is computed at the last cross-attention of the U-Net, from twelve seeds that are not used again. A sample is the
# vector of one place in one step. The direction has a norm, and explains a part of the variance of all samples.

import numpy as np
import torch
from matplotlib.figure import Figure

import sdprobe
from sdprobe import plot, sample
from sdprobe.shapes import detect

model = sdprobe.load()
attn2 = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
count = 12
settings = {"steps": 8, "guidance_scale": 5.0, "images_per_prompt": count, "progress": False}


def recorded(prompt, first):
    """A run with its activations; its seeds begin with a number."""
    return sample(model, prompt, hooks=[sdprobe.Activations(attn2)], seed=list(range(first, first + count)), **settings)


blue, red, more_red = recorded("a blue circle", 100), recorded("a red circle", 100), recorded("a red circle", 200)
direction = sdprobe.difference(blue, red, attn2)
direction

# %%
# ## Controls of the same norm
#
# One control is a random direction; three of them are drawn. But activations are not spherical: a random vector may
# point where they hardly ever are. So the second control is a difference of means too, of two groups of runs that are
# both red, stretched to the norm of the direction.

nothing = sdprobe.difference(more_red, red, attn2)
vectors = {
    "blue − red": direction[attn2],
    **{f"random {seed}": direction.random(seed)[attn2] for seed in range(3)},
    "red − red": nothing[attn2] * direction.norm[attn2] / nothing.norm[attn2],
}
for name, vector in vectors.items():
    cosine = torch.cosine_similarity(vector, direction[attn2], dim=0)
    print(f"{name:11} norm {vector.norm():.2f}, cosine with the direction {cosine:+.2f}")

# %%
# ## Gains
#
# `Steer` adds a multiple of the vector in every place, here in the rows of the prompt and of the empty prompt. Two
# measures: whether a detector calls the largest object blue, with 95 % intervals of a share (Wilson 1927); and how much
# more blue than red its pixels are, with the standard error over the seeds. The first has a threshold in it, the second
# has none.

gains = [0, 1, 2, 3, 4, 5, 6]
steered = {
    (name, gain): sample(
        model,
        "a red circle",
        hooks=[sdprobe.Steer(vector, attn2, gain, rows=None)],
        seed=list(range(count)),
        **settings,
    )
    for name, vector in vectors.items()
    for gain in (gains if name == "blue − red" else gains[2::2])
}


def measured(run):
    """For each picture with an object: whether its largest is blue, and the blue minus the red of its pixels."""
    pictures = [np.asarray(picture) for picture in run.images]
    largest = [(picture, found[0]) for picture in pictures if (found := detect(picture))]
    difference = [np.subtract(*picture[own.mask].mean(0)[[2, 0]]) / 255 for picture, own in largest]
    return np.array([own.colour == "blue" for _, own in largest]), np.array(difference)


def wilson(share, n=count, z=1.96):
    """The 95 % interval of a share."""
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


found = {place: measured(run) for place, run in steered.items()}
shares = {place: blue.sum() / count for place, (blue, _) in found.items()}
figure = Figure(figsize=(8, 3.2), layout="constrained")
for ax, label in zip(figure.subplots(1, 2), ("share of blue pictures", "blue − red of the object"), strict=True):
    for k, name in enumerate(vectors):
        own = [gain for kind, gain in steered if kind == name]
        if label.startswith("share"):
            values = np.array([shares[name, gain] for gain in own])
            bars = np.abs(np.array([wilson(value) for value in values]).T - values)
        else:
            each = [found[name, gain][1] for gain in own]
            values = np.array([one.mean() for one in each])
            bars = np.array([one.std(ddof=1) / np.sqrt(len(one)) for one in each])
        style = {"b": "o-", "r": "^:"}[name[0]] if name != "red − red" else "s--"
        colour = "black" if name == "blue − red" else "0.55"
        ax.errorbar(np.array(own) + 0.06 * (k - 2), values, bars, fmt=style, color=colour, label=name, capsize=2)
    ax.set(xlabel="gain", ylabel=f"{label}\n({count} seeds)")
    ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
# mkdocs_gallery_thumbnail_panel = 1
figure

# %%
assert shares["blue − red", 0] == 0
assert shares["blue − red", 6] > 0.5
assert all(value == 0 for (name, _), value in shares.items() if name != "blue − red")
for gain in gains:
    print(f"gain {gain}: {shares['blue − red', gain] * count:.0f} of {count} blue")

# %%
# ## What is seen
#
# The colour goes through purple. The background is spoiled on the way, and the circle may move and shrink: a vector in
# every place is a rough tool. The controls spoil the picture as much, but make nothing blue.

shown = [("blue − red", gain) for gain in (0, 2, 4, 6)] + [("random 0", 6), ("red − red", 6)]
plot.sheet(
    [[steered[place].images[k] for place in shown] for k in range(4)],
    rows=[f"seed {k}" for k in range(4)],
    columns=[f"{name}\n× {gain}" for name, gain in shown],
)

# %%
# ## Rows and places
#
# By default only the rows of the prompt are steered. Guidance then increases the change as it increases the prompt's
# own, so a smaller gain is enough. A mask steers some places only. A shape that was not used for the direction:

right = torch.zeros(64, 64, dtype=torch.bool)
right[:, 32:] = True
ways = {
    "gain 0": sdprobe.Steer(direction, attn2, 0),
    "gain 1": sdprobe.Steer(direction, attn2, 1),
    "gain 2": sdprobe.Steer(direction, attn2, 2),
    "gain 6, all rows,\nright half": sdprobe.Steer(direction, attn2, 6, rows=None, places=right),
}
prompt, few = "a red star on a white background", settings | {"images_per_prompt": 4, "seed": [0, 1, 2, 3]}
stars = {name: sample(model, prompt, hooks=[hook], **few) for name, hook in ways.items()}
plot.sheet(
    [[run.images[k] for run in stars.values()] for k in range(4)],
    rows=[f"seed {k}" for k in range(4)],
    columns=list(stars),
)
