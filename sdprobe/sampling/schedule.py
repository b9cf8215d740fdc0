"""`schedule`: the noise levels that a scheduler uses in a number of steps."""

from __future__ import annotations

from typing import Any

import torch

from sdprobe.core.schedule import Schedule
from sdprobe.model.base import Model
from sdprobe.model.diffusion.noise_levels import level_at
from sdprobe.model.diffusion.schedulers import fresh_scheduler
from sdprobe.model.fill_settings import of_steps
from sdprobe.model.loading import load


def schedule(model: Model | Any, steps: int | None = None, scheduler: str | type | Any | None = None) -> Schedule:
    """Return the noise levels that a scheduler uses in a number of steps, as in `sdprobe.sample`.

    >>> import sdprobe
    >>> sdprobe.schedule(sdprobe.load(), steps=4, scheduler="EulerDiscrete")
    Schedule(EulerDiscrete, 4 steps)
    call  timestep     sigma      alpha        snr  step size
       0       999  157.4073  4.036e-05  4.036e-05   140.1603
       1       749   17.2470   0.003351   0.003362    13.8228
       2       499    3.4241    0.07859    0.08529     2.4712
       3       249    0.9529     0.5241      1.101     0.9529
     end              0.0000          1        inf

    Args:
        model: the result of `sdprobe.load`, or a live pipeline; its configuration gives the betas.
        steps: the number of steps, 1 or more; None for the pipeline's default.
        scheduler: as for `sdprobe.sample`: a class that fits the pipeline, its name, or an instance whose configuration
            is used; None for the pipeline's own.

    Raises:
        ValueError: for a scheduler that does not fit the pipeline, or for less than one step.

    Source: for the meaning of timesteps and sigmas, Karras et al. 2022, "Elucidating the Design Space of
        Diffusion-Based
    Generative Models", table 1 and section 3.
    """
    known = load(model)
    steps = known.default("num_inference_steps") if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}")
    own = fresh_scheduler(known.pipe, scheduler)
    settings = of_steps(known, steps, type(own).__name__)  # some families depend on the image size too
    known.set_timesteps(own, settings, torch.device("cpu"))
    levels = [level_at(own, i) for i in range(len(own.timesteps) + 1)]
    signal, noise, sigmas = (torch.stack([value.float() for value in column]) for column in zip(*levels, strict=True))
    return Schedule(type(own).__name__, steps, own.timesteps.float(), sigmas, signal, noise)
