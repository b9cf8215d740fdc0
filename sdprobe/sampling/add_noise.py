"""`add_noise`: the forward process, to any noise level of a schedule."""

from __future__ import annotations

from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.model.base import Model
from sdprobe.model.diffusion.schedulers import one_call
from sdprobe.model.fill_settings import Seed
from sdprobe.model.loading import load
from sdprobe.model.seeds import noise_like
from sdprobe.sampling.schedule import schedule


def add_noise(
    model: Model | Any,
    latents: Shaped[Tensor, "images channels *size"],
    step: int | None = None,
    *,
    timestep: int | None = None,
    steps: int | None = None,
    scheduler: str | type | Any | None = None,
    seed: Seed = 0,
) -> Shaped[Tensor, "images channels *size"]:
    """Add noise to clean latents, to the level of a run's step or of a timestep: x_t = signal · x0 + noise · ε.

    The same seed gives the same noise at every level. Image-to-image starts from the same latents: a run with
    ``image=latents`` and a ``strength`` that begins at this step enters it with exactly these latents.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> x0 = sdprobe.sample(model, "a red circle", steps=5, seed=0, progress=False).latents
    >>> noisy = [sdprobe.add_noise(model, x0, step, steps=4) for step in range(4)]
    >>> nearness = [float((x - x0).square().mean()) for x in noisy]
    >>> nearness == sorted(nearness, reverse=True)  # the steps of a run go from noise to picture
    True

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        latents: clean latents ``[images, channels, h, w]``, for example `Encoded.mean` or `Run.latents`.
        step: the number of the denoiser call, counted from 0, which has the most noise.
        timestep: a timestep of training, instead of a step: 0 is the least noise, usually 999 the most. The latents
            keep unit variance.
        steps: the number of steps of the schedule; None for the pipeline's default.
        scheduler: as for `sdprobe.sample`. Some schedulers keep x0 unscaled in the latents (`Schedule.signal` is 1):
            divide by ``sqrt(1 + sigma**2)`` before decoding them.
        seed: the seed of the noise: one number for all images, or one for each.

    Raises:
        ValueError: for a step outside the schedule, a timestep outside training, and for both or neither of the two.

    Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 4.
    """
    if timestep is not None and step is None:
        if steps is not None or scheduler is not None:
            raise ValueError("a timestep is one of training, and knows no steps or scheduler: give those with a step")
        step, steps, scheduler = 0, 1, one_call(load(model).pipe, timestep)
    elif step is None or timestep is not None:
        raise ValueError("say where to: give either a step or a timestep")
    own = schedule(model, steps, scheduler)
    if not 0 <= step < len(own.timesteps):
        raise ValueError(f"step {step} is not in this schedule of {len(own.timesteps)} calls, counted from 0")
    # Numbers on the CPU, rounded to the dtype of the latents as the pipeline's own are, for which no device waits.
    signal, noise = (level[step].to(latents.dtype) for level in (own.signal, own.noise))
    return signal * latents + noise * noise_like(latents, seed)
