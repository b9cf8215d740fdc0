"""
# A picture drowns, and is rescued

Diffusion is trained on one game: noise is added to a picture, and the network says what was added. Here the game is
played with a picture the model has never seen, from a little noise to nothing but noise.
"""

# %%
# ## Drowning
#
# `add_noise` takes latents to any step of a schedule. The same seed is the same noise, so each picture has more of it
# than the one before.

import sdprobe
from sdprobe import add_noise, decode, encode, plot, psnr, sample, schedule
from sdprobe.shapes import Object, render

model = sdprobe.load()
things = [Object("circle", "red", (20, 24), 13), Object("square", "blue", (45, 42), 12)]
picture = encode(model, render(things, background="striped").image)
prompt = "a red circle and a blue square"

steps = 24
levels = [22, 19, 16, 13, 10, 7, 4, 0]
noised = [add_noise(model, picture.mean, step, steps=steps, seed=1) for step in levels]
ratios = schedule(model, steps).snr
drowning = [model.pictures(decode(model, x))[0] for x in noised]

# %%
# ## And the rescue
#
# A run that starts from a noised picture is image-to-image: `strength` says at which step it enters. From little noise
# the very picture comes back. The more has drowned, the more the model makes up, until only the prompt is left.

rescued = [
    sample(
        model,
        prompt,
        image=picture.mean,
        strength=(steps - step) / steps,
        steps=steps,
        guidance_scale=3.0,
        seed=1,
        progress=False,
    )
    for step in levels
]
plot.sheet(
    [drowning, [run.images[0] for run in rescued]],
    rows=["noised", "rescued"],
    columns=[f"snr {ratios[step]:.2g}" for step in levels],
)

# %%
# How much of the picture survives: the distance between what was given and what was rescued, over the signal-to-noise
# ratio it was rescued from. The autoencoder alone sets the limit.

from matplotlib.figure import Figure

figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
values = [float(psnr(run.images, picture.pixels)) for run in rescued]
limit = float(psnr(decode(model, picture.mean), picture.pixels))
ax.semilogx([float(ratios[step]) for step in levels], values, "o-", color="black")
ax.axhline(limit, color="grey", linestyle=":")
ax.text(float(ratios[levels[-1]]), limit - 0.4, "the autoencoder alone", color="grey", va="top")
ax.set(xlabel="signal-to-noise ratio it was rescued from", ylabel="PSNR to the picture (dB)")
ax.spines[["top", "right"]].set_visible(False)
figure
