"""
# Activation patching: which module carries the colour

Where in the network is the colour? Activation patching asks this as an experiment: a run of one prompt gets, at one
module, the activations of a run of another prompt (Vig et al. 2020, Meng et al. 2022). If the picture takes the other
colour, what the module gives is enough for it. If not, the colour takes another way.
"""

# %%
# ## Two runs
#
# The source is “a blue circle”, the run to be patched is “a red circle”, with the same twelve seeds. `Activations`
# keeps what the blocks of the U-Net give in each step. A detector says which colour the largest object has.

import numpy as np
import torch
from matplotlib.figure import Figure

import sdprobe
from sdprobe import only, plot, sample
from sdprobe.shapes import detect

model = sdprobe.load()
seeds = list(range(12))
settings = {"steps": 8, "guidance_scale": 5.0, "seed": seeds, "images_per_prompt": len(seeds), "progress": False}
last = "up_blocks.2.attentions.1"
blocks = [
    "down_blocks.?",
    "mid_block",
    "up_blocks.0",
    "up_blocks.1",
    "up_blocks.2.attentions.0",
    "up_blocks.2.resnets.1",
    f"{last}.transformer_blocks.0.attn2",
    last,
]
attn2 = blocks[-2]
activations = sdprobe.Activations(blocks)
blue = sample(model, "a blue circle", hooks=[activations], **settings)
red = sample(model, "a red circle", **settings)


def share(run, colour="blue"):
    """The share of pictures whose largest object has a colour."""
    found = [detect(np.asarray(picture)) for picture in run.images]
    return sum(bool(things) and things[0].colour == colour for things in found) / len(found)


print(f"blue: {share(blue):.0%} of the source, {share(red):.0%} of the run to be patched")

# %%
# ## The patching matrix
#
# Each row is patched in all steps, in the first half or in the last. The three blocks of the down path are patched
# together, with the skip tensors that they give to the up path. A patch replaces what the module gives for the prompt
# and for the empty prompt.
#
# The last row is an upper bound, not a finding: after that block come only a norm and a convolution, so the patched run
# gets the prediction of the source. The row above it is one: the cross-attention of this block alone, 32 numbers in
# each place, turns about half of the pictures; in the later steps more than the whole prediction, which was made for
# other latents. No module before it turns any, although each has read “blue”: the last cross-attention reads “red”.

windows = {"all": range(8), "0 to 3": range(4), "4 to 7": range(4, 8)}
matrix = np.zeros((len(blocks), len(windows)))
patched = {}
for i, block in enumerate(blocks):
    for j, steps in enumerate(windows.values()):
        patched[i, j] = sample(model, "a red circle", hooks=[only(sdprobe.Patch(blue, block), steps=steps)], **settings)
        matrix[i, j] = share(patched[i, j])


def wilson(share, n=12, z=1.96):
    """The 95 % interval of a share (Wilson 1927)."""
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def as_matrix(values, rows, columns):
    """Draw shares with their intervals."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    ax = figure.subplots()
    shown = ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        low, high = wilson(value)
        said = f"{value * len(seeds):.0f} of {len(seeds)}\n[{max(low, 0):.2f}, {min(high, 1):.2f}]"
        ax.text(j, i, said, ha="center", va="center", fontsize=7, color="white" if value > 0.6 else "black")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), [row.replace(".transformer_blocks.0", "") for row in rows])
    ax.set(xlabel="patched steps")
    figure.colorbar(shown, label="share of blue pictures")
    return figure


# mkdocs_gallery_thumbnail_panel = 0
as_matrix(matrix, blocks, list(windows))

# %%
assert matrix[blocks.index(last), 0] == 1, "the prediction of the source makes the picture of the source"
assert matrix[blocks.index(attn2)].max() >= 0.25, "its cross-attention alone turns some"
assert not matrix[: blocks.index(attn2)].any(), "nothing before it turns any picture"

# %%
# Pictures of the first four seeds, patched in all steps:

chosen = [None, *(blocks.index(block) for block in ("mid_block", "up_blocks.1", attn2, last))]
plot.sheet(
    [[blue.images[k], *((red if i is None else patched[i, 0]).images[k] for i in chosen)] for k in range(4)],
    rows=[f"seed {k}" for k in range(4)],
    columns=["source", "unpatched", "mid_block", "up_blocks.1", "last attn2", "last block"],
)

# %%
# Patched at `up_blocks.1`, the circles stay red, and move to where the source has them. So the place is carried there.
# Here is the distance of the object's centre to the one in the source, in pixels: the mean over the seeds with its
# standard error. The down path carries the place too, nearly all of it by its skip tensors.


def distances(run):
    """How far the largest object is from the one in the source."""
    pairs = [[detect(np.asarray(own.images[k]))[0].centre for own in (run, blue)] for k in range(len(seeds))]
    return np.linalg.norm(np.subtract(*np.array(pairs).swapaxes(0, 1)), axis=-1)


without_skips = sample(model, "a red circle", hooks=[sdprobe.Patch(blue, blocks[0], streams="hidden")], **settings)
moved = {"unpatched": red, "down_blocks.? without skips": without_skips}
moved |= {block: patched[i, 0] for i, block in enumerate(blocks[:-2])}
means = {name: distances(run).mean() for name, run in moved.items()}
for name, run in moved.items():
    print(f"{name:27} {means[name]:4.1f} ± {distances(run).std(ddof=1) / np.sqrt(len(seeds)):.1f}")
assert max(means["down_blocks.?"], means["up_blocks.1"]) < means["unpatched"] / 2
assert means["down_blocks.? without skips"] > means["unpatched"] / 2

# %%
# ## Controls
#
# Any foreign activations might spoil the colour. So the cross-attention is also patched from a run of red with other
# seeds: nothing turns blue. And a run patched into itself, at all these modules together, does not change by a bit.

others = settings | {"seed": [seed + 100 for seed in seeds]}
another = sample(model, "a red circle", hooks=[activations], **others)
control = sample(model, "a red circle", hooks=[sdprobe.Patch(another, attn2)], **settings)
itself = sample(model, "a blue circle", hooks=[sdprobe.Patch(blue, blocks)], **settings)
print(f"patched from another run of red: {share(control):.0%} blue, {share(control, 'red'):.0%} red")
print(f"patched into itself: the same latents, {torch.equal(itself.latents, blue.latents)}")
assert share(control) == 0
assert torch.equal(itself.latents, blue.latents)

# %%
# ## Part of an activation
#
# A patch can be limited to places, channels and heads. Below, the last block is patched in the left half of the
# picture; then its cross-attention in half of its heads, which stand side by side in what its last layer takes.

left = torch.zeros(64, 64, dtype=torch.bool)
left[:, :32] = True
layer = f"{attn2}.to_out.0"
heads = sample(model, "a blue circle", hooks=[sdprobe.Activations(layer, sides="input")], **settings)
count = model.modules[attn2].heads
parts = {
    "left half": sdprobe.Patch(blue, last, places=left),
    f"{count // 2} of {count} heads": sdprobe.Patch(heads, layer, sides="input", heads=range(count // 2)),
}
runs = {name: sample(model, "a red circle", hooks=[hook], **settings) for name, hook in parts.items()}
plot.sheet(
    [[red.images[k], *(run.images[k] for run in runs.values())] for k in range(4)],
    rows=[f"seed {k}" for k in range(4)],
    columns=["unpatched", *runs],
)
