"""
# Schedulers and noise levels

The denoiser predicts the noise at one noise level. The scheduler decides which levels are visited, and how to get from
one to the next. `schedule` shows these levels as numbers.
"""

# %%
# ## The noise levels as numbers
#
# One row for each call of the denoiser. σ is noise over signal, α is the share of the signal in the variance, and `snr`
# is the signal-to-noise ratio, 1/σ². The steps are evenly spaced in time, not in noise: σ falls by more than half in
# the first step, and there is more signal than noise only near the end.

import sdprobe
from sdprobe import LatentRecorder, plot, sample, schedule

model = sdprobe.load()
schedule(model, steps=10, scheduler="LMS")

# %%
# ## Several schedulers
#
# Ten steps can be distributed in many ways. Heun calls the denoiser twice in each of its steps. The schedule of Karras
# et al. (2022) has smaller steps towards the end, where detail is decided. An instance brings its own configuration:

from diffusers import DPMSolverMultistepScheduler

karras = DPMSolverMultistepScheduler.from_config(model.pipe.scheduler.config, use_karras_sigmas=True)
first, *others = (schedule(model, steps=10, scheduler=own) for own in ("DDIM", "Heun", karras))
first.plot(*others)

# %%
# ## One seed with each scheduler
#
# With many steps, all deterministic schedulers give nearly the same picture, since they solve the same equation. With
# few steps their errors differ. `DDPM` adds new noise at each step, so it gives another picture.

sdprobe.side_by_side(
    model,
    "a red circle left of a blue square",
    rows={"scheduler": ["DDIM", "LMS", "DPMSolverMultistep", "Heun", "DDPM"]},
    columns={"steps": [3, 6, 12, 24]},
    guidance_scale=4.0,
    seed=4,
)

# %%
# ## Predicted x0
#
# At every step the output of the denoiser implies a clean picture: predicted x0. It is computed from the output alone,
# for any scheduler and any prediction type, and it does not change the state of the scheduler.

watch = LatentRecorder(keep=("latents", "denoised"), every=2)
run = sample(
    model, "a red circle left of a blue square", hooks=[watch], steps=14, guidance_scale=4.0, seed=4, progress=False
)
seen = run[watch]
# mkdocs_gallery_thumbnail_panel = 9
plot.sheet(
    [model.pictures(sdprobe.decode(model, seen[kept][:, 0])) for kept in ("latents", "denoised")],
    rows=["latents", "predicted x0"],
    columns=[f"step {i}" for i in seen.indices],
)
