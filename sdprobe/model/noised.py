"""A picture to start from, encoded and noised by the stock image-to-image pipeline on the same parts."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.model.schedulers import fresh_scheduler
from sdprobe.run import Settings


def noised(stage: Any, settings: Settings, generator: Any, image: Any) -> Shaped[Tensor, "images channels h w"]:
    """The latents of pictures, noised to the level of the run's first step."""
    # Its constructor may rewrite the configuration of the scheduler it is given, so that is not the run's own.
    parts = {**stage.pipe.components, "scheduler": fresh_scheduler(stage.pipe, None)}
    pipe = stage.img2img(**parts, **stage.img2img_options)
    pipe.scheduler = stage.pipe.scheduler
    pixels = pipe.image_processor.preprocess(image, height=settings.height, width=settings.width)
    if len(pixels) not in (1, len(settings.prompt), settings.images):
        raise ValueError(
            f"{len(pixels)} pictures to start from for {len(settings.prompt)} prompts and {settings.images} "
            f"images: give one, or one per prompt"
        )
    if 1 < len(pixels) < settings.images:
        # Left to the pipeline, these would be tiled, and pair a prompt's images with other prompts' pictures.
        pixels = pixels.repeat_interleave(settings.images_per_prompt, dim=0)
    timestep = stage.pipe.scheduler.timesteps[stage.first : stage.first + 1].repeat(settings.images)
    with torch.no_grad():
        made: Tensor = stage.entering(pipe, pixels, timestep, settings, generator)
    return made
