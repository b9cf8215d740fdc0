"""
# Steer with a loss

Anything that can be measured on a picture, with a gradient, can steer a run. At every step the denoiser's output says
what the picture is going to be; `LossGuidance` decodes that prediction, measures it, and pushes the step down the
gradient. The loss of every course on guidance is the distance of the blue channel to 0.9.
"""

# %%
# ## The blue channel
#
# Four seeds of sixteen, without guidance, with a little of it and with much. At scale 0 nothing changes, and the loss
# is only watched. White is blue, too: where the prompt says red, the cheapest way to a high blue channel is a white
# background and a small, purplish circle. A loss is taken at its word.

import torch
from matplotlib.figure import Figure

import sdprobe
from sdprobe import LossGuidance, losses, plot, sample

model = sdprobe.load()
settings = {"steps": 8, "guidance_scale": 5.0, "seed": list(range(16)), "images_per_prompt": 16, "progress": False}
scales = [0, 0.5, 8]
guidance = {scale: LossGuidance(losses.blue(), scale) for scale in scales}
runs = {scale: sample(model, "a red circle", hooks=[guidance[scale]], **settings) for scale in scales}
plot.sheet(
    [[run.images[k] for run in runs.values()] for k in range(4)],
    rows=[f"seed {k}" for k in range(4)],
    columns=["no guidance", *(f"scale {scale:g}" for scale in scales[1:])],
)

# %%
# The loss of the finished pictures, over all sixteen seeds:

blue = losses.blue()


def finished(run, loss):
    """The loss of each picture."""
    with torch.no_grad():
        return loss(sdprobe.decode(model, run.latents))


for scale, run in runs.items():
    values = finished(run, blue)
    print(f"scale {scale:4g}: {values.mean():.3f}, from {values.min():.3f} to {values.max():.3f}")

# %%
# ## Bluer and bluer
#
# A loss that says what is meant is the distance to the colour blue in all three channels, and a prompt that leaves the
# colour open does not pull the other way. Beside the pictures, the share of blue pixels over all sixteen seeds: those
# whose blue is above their red and green by a quarter of the range.

coloured = {
    scale: sample(model, "a circle", hooks=[LossGuidance(losses.colour("blue"), scale, clip=0.3)], **settings)
    for scale in (0, 2, 8)
}
for scale, run in coloured.items():
    red, green, own_blue = sdprobe.decode(model, run.latents).unbind(1)
    is_blue = own_blue > torch.maximum(red, green) + 0.25
    print(f"scale {scale:4g}: {is_blue.float().mean():.0%} of the pixels are blue")
plot.sheet(
    [[run.images[k] for run in coloured.values()] for k in range(4)],
    rows=[f"seed {k}" for k in range(4)],
    columns=["no guidance", *(f"scale {scale:g}" for scale in list(coloured)[1:])],
)

# %%
# ## What happened, step by step
#
# The run keeps the losses before each push, the norms of the gradients, and how much of the noise each push changed.
# Nearly all of the push is in the first step, where the noise is highest and a picture still costs little to change.

runs[8][guidance[8]].plot()

# %%
# ## Overshooting
#
# A scale that is fit for the last step is far too large for the first. Three remedies: a bound on the change (`clip`),
# a gradient of a fixed length (`normalize`), and a scale that depends on the step.

few = settings | {"seed": [0, 1, 2, 3], "images_per_prompt": 4}
ways = {
    "plain, scale 8": LossGuidance(blue, 8),
    "clip=0.1": LossGuidance(blue, 8, clip=0.1),
    "normalize, scale 0.05": LossGuidance(blue, 0.05, normalize=True),
    "scale grows with the step": LossGuidance(blue, lambda step: 4 * step.index / step.total),
}
tamed = {name: sample(model, "a red circle", hooks=[hook], **few) for name, hook in ways.items()}
figure = Figure(figsize=(6, 3), layout="constrained")
ax = figure.subplots()
for (name, run), style in zip(tamed.items(), ("-", "--", ":", "-."), strict=True):
    changes = run[ways[name]].changes.mean(1).clamp_min(1e-4)
    ax.semilogy(changes, style, label=f"{name}: loss {finished(run, blue).mean():.3f}")
ax.set(xlabel="step", ylabel="change of the noise\n(standard deviations)")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
figure

# %%
plot.sheet(
    [[runs[0].images[k], *(run.images[k] for run in tamed.values())] for k in range(3)],
    rows=[f"seed {k}" for k in range(3)],
    columns=["no guidance", "plain\nscale 8", "clip=0.1", "normalize\nscale 0.05", "growing\nscale"],
)

# %%
# ## Several at once
#
# Guidances are hooks, and run together: here a blue left half and a yellow right half, each its own loss with a mask.
# Both push the background too; what comes of it lies between them. Prompt, scale and bound were
# found by trying; others made worse pictures.

left = torch.zeros(64, 64)
left[:, :32] = 1
halves = {"left": losses.colour("blue", left), "right": losses.colour("yellow", 1 - left)}
pushes = {name: LossGuidance(loss, 10, start=1, clip=0.1, apply="sample") for name, loss in halves.items()}
chosen = {"no guidance": [], "blue left": ["left"], "yellow right": ["right"], "both": ["left", "right"]}
gently = few | {"guidance_scale": 3.0, "steps": 12}
together = {
    name: sample(model, "a circle left of a circle", hooks=[pushes[side] for side in sides], **gently)
    for name, sides in chosen.items()
}
for name, run in together.items():
    print(f"{name:12s} sum of the two losses {sum(finished(run, loss) for loss in halves.values()).mean():.3f}")
plot.sheet(
    [[run.images[k] for run in together.values()] for k in range(4)],
    rows=[f"seed {k}" for k in range(4)],
    columns=list(together),
)
