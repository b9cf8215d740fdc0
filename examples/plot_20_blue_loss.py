"""
# Loss guidance

Any differentiable function of a picture can guide a run. At every step the denoiser's output gives predicted x0;
`LossGuidance` decodes it, computes the loss, and changes the step along the negative gradient. The first loss here is
the one of many courses on guidance: the distance of the blue channel to 0.9.
"""

# %%
# ## The blue channel
#
# Four seeds of sixteen: without guidance, with a low scale and with a high one. At scale 0 nothing changes, and the
# loss is only recorded. White has a high blue channel too: with a prompt that says red, the gradient leads to a white
# background and a small, purplish circle, which has a low loss. The run minimises exactly the loss that was given.

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
# ## A loss that says what is meant
#
# The distance to the colour blue in all three channels is nearer to what is meant, and a prompt without a colour does
# not contradict it. Below, the share of blue pixels over all sixteen seeds: those whose blue is above their red and
# green by a quarter of the range.

coloured = {
    scale: sample(model, "a circle", hooks=[LossGuidance(losses.colour("blue"), scale, clip=0.3)], **settings)
    for scale in (0, 2, 8)
}
for scale, run in coloured.items():
    red, green, own_blue = sdprobe.decode(model, run.latents).unbind(1)
    is_blue = own_blue > torch.maximum(red, green) + 0.25
    print(f"scale {scale:4g}: {is_blue.float().mean():.0%} of the pixels are blue")
# mkdocs_gallery_thumbnail_panel = 1
plot.sheet(
    [[run.images[k] for run in coloured.values()] for k in range(4)],
    rows=[f"seed {k}" for k in range(4)],
    columns=["no guidance", *(f"scale {scale:g}" for scale in list(coloured)[1:])],
)

# %%
# ## Losses and gradients by step
#
# The run keeps the loss before each change, the norm of the gradient, and how much of the noise each change replaced.
# Nearly all of the change is in the first step, where the noise level is highest.

runs[8][guidance[8]].plot()

# %%
# ## Overshooting
#
# A scale that suits the last step is far too large for the first. Three remedies: a bound on the change (`clip`), a
# gradient of a fixed length (`normalize`), and a scale that depends on the step.

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
# ## Several losses at once
#
# Several `LossGuidance` hooks run together: here a blue left half and a yellow right half, each with its own loss and a
# mask. Both change the background too, and the result lies between them. Prompt, scale and bound were selected by
# trying; others gave worse pictures.

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
