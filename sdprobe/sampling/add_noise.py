"""The forward process: a picture's latents at any noise level of a schedule."""

from __future__ import annotations

from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.model.base import Model
from sdprobe.model.diffusion.schedulers import one_call
from sdprobe.model.fill_settings import Seed
from sdprobe.model.loading import load
from sdprobe.model.pipeline_parts import noise_like
from sdprobe.sampling.schedule import schedule


def add_noise(
    model: Model | Any,
    latents: Shaped[Tensor, "images channels h w"],
    step: int | None = None,
    *,
    timestep: int | None = None,
    steps: int | None = None,
    scheduler: str | type | Any | None = None,
    seed: Seed = 0,
) -> Shaped[Tensor, "images channels h w"]:
    """Clean latents as they would stand at one step of a run, or at a timestep: x_t = signal · x0 + noise · ε.

    The same seed is the same noise at every level. What comes out is what image-to-image starts from: a run with
    ``image=latents`` and a ``strength`` that begins at this step enters it with these very latents.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> x0 = sdprobe.sample(model, "a red circle", steps=5, seed=0, progress=False).latents
    >>> noisy = [sdprobe.add_noise(model, x0, step, steps=4) for step in range(4)]
    >>> nearness = [float((x - x0).square().mean()) for x in noisy]
    >>> nearness == sorted(nearness, reverse=True)  # the steps of a run go from noise to picture
    True

    Args:
        model: what `sdprobe.load` gives, or a live pipeline.
        latents: clean latents ``[images, channels, h, w]``, for example `Encoded.mean` or `Run.latents`.
        step: which call of the denoiser, counted from 0, the highest noise.
        timestep: of training, in place of a step: 0 is the least noise, and 999 the most of the usual 1000. The
            latents keep unit variance.
        steps: of how many steps; None for the pipeline's own default.
        scheduler: as for `sdprobe.sample`. Some keep their latents in a scale of their own, in which noise is added
            to the whole picture (`Schedule.signal` is 1): divide by ``sqrt(1 + sigma**2)`` to see those decoded.
        seed: of the noise: one number for all, or one for each of the images.

    Raises:
        ValueError: for a step that the schedule does not have, or a timestep that training did not; for both.

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
    return own.signal[step].to(latents) * latents + own.noise[step].to(latents) * noise_like(latents, seed)
