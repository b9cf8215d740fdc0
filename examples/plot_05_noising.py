"""
# Forward process: adding noise and removing it

A diffusion model is trained on one task: noise is added to a picture, and the network predicts what was added. Here the
same is done with a picture that is not in the training data, from a little noise to almost nothing but noise.
"""

# %%
# ## Adding noise
#
# `add_noise` adds the noise of any step of a schedule to latents. The same seed gives the same noise, so the pictures
# differ only in how much of it they have.

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
with_noise = [model.pictures(decode(model, x))[0] for x in noised]

# %%
# ## Removing it again
#
# A run that starts from a noised picture is image-to-image: `strength` sets the step at which it starts. From little
# noise the run gives back nearly the same picture. From more noise the model adds more of its own, until only the
# prompt determines the picture.

# mkdocs_gallery_thumbnail_panel = 11
restored = [
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
    [with_noise, [run.images[0] for run in restored]],
    rows=["noised", "restored"],
    columns=[f"snr {ratios[step]:.2g}" for step in levels],
)

# %%
# How much of the picture is left: the PSNR between the given picture and the restored one, over the signal-to-noise
# ratio from which it was restored. The autoencoder alone sets the upper limit.

from matplotlib.figure import Figure

figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
values = [float(psnr(run.images, picture.pixels)) for run in restored]
limit = float(psnr(decode(model, picture.mean), picture.pixels))
ax.semilogx([float(ratios[step]) for step in levels], values, "o-", color="black")
ax.axhline(limit, color="grey", linestyle=":")
ax.text(float(ratios[levels[-1]]), limit - 0.4, "the autoencoder alone", color="grey", va="top")
ax.set(xlabel="signal-to-noise ratio at the start", ylabel="PSNR to the picture (dB)")
ax.spines[["top", "right"]].set_visible(False)
figure
