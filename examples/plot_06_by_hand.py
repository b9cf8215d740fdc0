"""
# Sampling loop in plain torch

A text-to-image pipeline is a few networks and a loop of a few lines. Here the loop is written in plain torch with the
parts of the pipeline, and compared with `sample`, which makes the same picture, bit for bit.
"""

# %%
# ## From prompt to conditioning
#
# The tokenizer turns the text into numbers and pads them to the context length; the text encoder makes a vector of
# each. Guidance needs the same for the empty prompt. `pipe` is the diffusers pipeline inside the model.

import numpy as np
import torch

import sdprobe
from sdprobe import LatentRecorder, plot, sample

model = sdprobe.load()
pipe = model.pipe
prompt, steps, scale, seed = "a red circle left of a blue square", 25, 5.0, 4


@torch.no_grad()
def encoded(text):
    """What the text encoder makes of a text."""
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return pipe.text_encoder(ids)[0]


conditioning = torch.cat([encoded(""), encoded(prompt)])
print(tuple(conditioning.shape))

# %%
# ## From noise to latents
#
# At every step the U-Net is called on the latents twice, without the prompt and with it. Guidance extrapolates from the
# first prediction past the second, and the scheduler takes one step to a lower noise level.

scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
scheduler.set_timesteps(steps)
side = pipe.unet.config.sample_size
generator = torch.Generator("cpu").manual_seed(seed)
x = torch.randn(1, pipe.unet.config.in_channels, side, side, generator=generator) * scheduler.init_noise_sigma

visited = []
with torch.no_grad():
    for t in scheduler.timesteps:
        visited.append(x)
        pair = scheduler.scale_model_input(torch.cat([x, x]), t)
        without, prompted = pipe.unet(pair, t, encoder_hidden_states=conditioning).sample.chunk(2)
        guided = without + scale * (prompted - without)
        x = scheduler.step(guided, t, x).prev_sample

# %%
# ## From latents to picture
#
# The autoencoder and the U-Net use latents of different scale; `scaling_factor` converts between them.

with torch.no_grad():
    pixels = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
plain = model.pictures((pixels / 2 + 0.5).clamp(0, 1))[0]

# %%
# ## The same loop, with hooks
#
# `sample` runs the same loop. In it, each of these values passes a point where a hook can observe or change it. Here
# one hook keeps the latents of every step.

recorder = LatentRecorder()
run = sample(
    model, prompt, hooks=[recorder], steps=steps, guidance_scale=scale, seed=seed, scheduler="DDIM", progress=False
)
difference = np.abs(np.asarray(plain, float) - np.asarray(run.images[0], float)).max(-1) / 255
# mkdocs_gallery_thumbnail_panel = 0
plot.sheet([[plain, run.images[0], difference]], columns=["plain torch", "sample", "difference"])

# %%
# The latents of every step, and the final ones, are exactly equal:

print(torch.equal(torch.stack(visited), run[recorder]["latents"]), torch.equal(x, run.latents))

# %%
# ## One step in numbers
#
# What does the scheduler do? Latents are x_t = √ᾱ · x0 + √(1 − ᾱ) · ε. The embedded model predicts v, as Stable
# Diffusion 2 does (Salimans & Ho 2022). From v both the predicted picture x0 and the predicted noise ε follow. DDIM
# (Song et al. 2020) adds them again, with the ᾱ of the next level, where there is less noise.

i = 12
t, after = scheduler.timesteps[i], scheduler.timesteps[i + 1]
alpha, alpha_after = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[after]
x_t = visited[i]
with torch.no_grad():
    without, prompted = pipe.unet(torch.cat([x_t, x_t]), t, encoder_hidden_states=conditioning).sample.chunk(2)
v = without + scale * (prompted - without)
x0 = alpha.sqrt() * x_t - (1 - alpha).sqrt() * v
noise = alpha.sqrt() * v + (1 - alpha).sqrt() * x_t
following = alpha_after.sqrt() * x0 + (1 - alpha_after).sqrt() * noise
print(f"{(following - visited[i + 1]).abs().max():.1e}")

# %%
# The parts of this step as pictures: x_t is a weighted sum of the two pictures in the middle, and the latents of the
# next step are another weighted sum of the same two.

shown = model.pictures(sdprobe.decode(model, torch.cat([x_t, x0, noise, following])))
shares = [f"{alpha.sqrt():.2f} · $x_0$ + {(1 - alpha).sqrt():.2f} · ε", "predicted $x_0$", "predicted ε"]
shares.append(f"{alpha_after.sqrt():.2f} · $x_0$ + {(1 - alpha_after).sqrt():.2f} · ε")
names = [f"step {i}: $x_t$", "", "", f"step {i + 1}: $x_t$"]
plot.sheet([shown], columns=[f"{name}\n{share}" for name, share in zip(names, shares, strict=True)])
