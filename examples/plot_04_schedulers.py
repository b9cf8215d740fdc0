"""
# Schedulers: the road from noise to picture

The denoiser only ever says what it takes for noise at one noise level. The scheduler decides which levels are visited,
and how to get from one to the next. `schedule` lays that road out in numbers.
"""

# %%
# ## The levels, as numbers
#
# One row for each call of the denoiser. σ is noise over signal, α the signal's share of the variance, and `snr` the
# signal-to-noise ratio, 1/σ². The steps are even in time, not in noise: σ falls by more than half at first, and there
# is more signal than noise only near the end.

import sdprobe
from sdprobe import LatentRecorder, plot, sample, schedule

model = sdprobe.load()
schedule(model, steps=10, scheduler="LMS")

# %%
# ## Several roads
#
# Ten steps may be spread in many ways. Heun calls the denoiser twice in each of its steps. Karras et al. (2022) make
# steps that shrink towards the end, where detail is decided. An instance brings its own configuration:

from diffusers import DPMSolverMultistepScheduler

karras = DPMSolverMultistepScheduler.from_config(model.pipe.scheduler.config, use_karras_sigmas=True)
first, *others = (schedule(model, steps=10, scheduler=own) for own in ("DDIM", "Heun", karras))
first.plot(*others)

# %%
# ## One seed on each of them
#
# With many steps they arrive at nearly the same picture, since they solve one equation. With few steps it shows which
# of them are good at it. `DDPM` draws fresh noise at each step, and arrives elsewhere.

sdprobe.side_by_side(
    model,
    "a red circle left of a blue square",
    rows={"scheduler": ["DDIM", "LMS", "DPMSolverMultistep", "Heun", "DDPM"]},
    columns={"steps": [3, 6, 12, 24]},
    guidance_scale=4.0,
    seed=4,
)

# %%
# ## What the model sees ahead
#
# At every step the denoiser's output speaks of a clean picture: predicted x0. It is read from the output alone, under
# any scheduler and any kind of prediction, and the scheduler is not disturbed.

watch = LatentRecorder(keep=("latents", "denoised"), every=2)
run = sample(
    model, "a red circle left of a blue square", hooks=[watch], steps=14, guidance_scale=4.0, seed=4, progress=False
)
seen = run[watch]
plot.sheet(
    [model.pictures(sdprobe.decode(model, seen[kept][:, 0])) for kept in ("latents", "denoised")],
    rows=["latents", "predicted x0"],
    columns=[f"step {i}" for i in seen.indices],
)
