"""`look`: one call of the denoiser on a given image with noise of one level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sdprobe.core.given_hooks import Given
from sdprobe.core.run import Run
from sdprobe.model.base import Model
from sdprobe.model.diffusion.schedulers import one_call
from sdprobe.model.fill_settings import Seed
from sdprobe.model.loading import load
from sdprobe.model.pictures.autoencoder import pictures_of
from sdprobe.sampling.loop import sample

DETERMINED = ("steps", "scheduler", "strength", "start_step", "latents")
"""The arguments of `sdprobe.sample` that the one call has no use for."""


def look(
    model: Model | Any,
    image: Any,
    prompt: str | Sequence[str],
    timestep: int,
    *,
    hooks: Given = (),
    seed: Seed = 0,
    **settings: Any,
) -> Run:
    """Add noise to an image at one level and call the denoiser once, for example to get attention on a real image.

    The run's images are predicted x0 of the noisy image.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> picture = sdprobe.sample(model, "a red circle", steps=10, seed=0, progress=False).images[0]
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.look(model, picture, "a red circle", timestep=500, hooks=[maps])
    >>> run, run[maps].heat_map("circle").values.shape
    (Run('a red circle', 1 image of 64×64, 1 steps of DDIMScheduler, guidance 1, seed 0), torch.Size([16, 16]))

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        image: an image, or one per prompt, as for `sdprobe.encode`; or clean latents.
        prompt: one text or several.
        timestep: a timestep of training: 0 is the least noise, usually 999 the most.
        hooks: hooks of the run.
        seed: the seed of the noise: one number, or one per image. For several draws of noise, repeat the prompt and
            give as many seeds.
        settings: other arguments of `sdprobe.sample`; ``guidance_scale`` is 1, no guidance, by default.

    Raises:
        ValueError: for a timestep that the model was not trained on, for a setting that the one call determines
            (``steps``, ``scheduler``, ``strength``, ``start_step``, ``latents``), and as for `sdprobe.sample`.

    Source: as representations are read in Tang et al. 2023, "Emergent Correspondence from Image Diffusion", section 4.
    """
    if fixed := [name for name in DETERMINED if name in settings]:
        raise ValueError(
            f"a look is one call of the denoiser at one timestep, which determines {', '.join(fixed)}: leave it out"
        )
    own = load(model)
    settings = {"guidance_scale": 1.0, "progress": False} | settings
    scheduler = one_call(own.pipe, timestep)
    image = image if isinstance(image, Tensor) else pictures_of(image)
    return sample(
        own, prompt, hooks=hooks, seed=seed, image=image, strength=1.0, steps=1, scheduler=scheduler, **settings
    )
