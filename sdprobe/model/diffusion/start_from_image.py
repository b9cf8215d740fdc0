"""`noised`: encode an image and add noise to it, with the stock image-to-image pipeline."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.run import Settings
from sdprobe.model.diffusion.schedulers import fresh_scheduler


def noised(run_model: Any, settings: Settings, generator: Any, image: Any) -> Shaped[Tensor, "images channels *size"]:
    """Return the latents of images with noise, at the level of the run's first step."""
    # The constructor may change the configuration of its scheduler, so it gets a copy.
    parts = {**run_model.pipe.components, "scheduler": fresh_scheduler(run_model.pipe, None)}
    pipe = run_model.img2img(**parts, **run_model.img2img_options)
    pipe.scheduler = run_model.pipe.scheduler
    pixels = pipe.image_processor.preprocess(image, height=settings.height, width=settings.width)
    if len(pixels) not in (1, len(settings.prompt), settings.images):
        raise ValueError(
            f"{len(pixels)} pictures to start from for {len(settings.prompt)} prompts and {settings.images} "
            f"images: give one, or one per prompt"
        )
    if 1 < len(pixels) < settings.images:
        # The pipeline would repeat the images in another order, and pair them with other prompts.
        pixels = pixels.repeat_interleave(settings.images_per_prompt, dim=0)
    timestep = run_model.pipe.scheduler.timesteps[run_model.first : run_model.first + 1].repeat(settings.images)
    with torch.no_grad():
        made: Tensor = run_model.entering(pipe, pixels, timestep, settings, generator)
    return made
