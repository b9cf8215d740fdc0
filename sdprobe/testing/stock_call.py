"""`call_stock`: a stock pipeline called for the settings of `sdprobe.sample`."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sdprobe.model.base import Model
from sdprobe.model.diffusion.schedulers import fresh_scheduler

RENAMED = {"steps": "num_inference_steps", "images_per_prompt": "num_images_per_prompt"}
"""Settings that diffusers calls by another name."""


def stock_arguments(model: Model, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pipeline's own call is given for settings of `sample`; without the seed and the progress bar."""
    takes = signature(type(model.pipe).__call__).parameters
    named = RENAMED | {"guidance_scale": model.guidance_argument}
    if "num_frames" in takes:
        named |= {"images_per_prompt": "num_videos_per_prompt", "frames": "num_frames"}
    given = {named.get(name, name): value for name, value in settings.items() if name not in ("seed", "progress")}
    given |= {
        name: list(value) for name, value in given.items() if isinstance(value, list)
    }  # a pipeline may write there
    if model.guidance_argument != "guidance_scale" and settings.get("guidance_scale", 0.0) > 1:
        given.setdefault("negative_prompt", "")  # without one there is no guidance in such a pipeline
    if "negative_prompt" in given and isinstance(given.get("prompt"), list):
        given["negative_prompt"] = [given["negative_prompt"]] * len(given["prompt"])
    if "use_resolution_binning" in takes and getattr(model, "known_sizes", None) is None:
        given["use_resolution_binning"] = False  # the pipeline knows no sizes for a network of this one
    return given


def made_of(returned: Any) -> Any:
    """Return the pictures, or the videos, that a pipeline returned."""
    return returned.images if hasattr(returned, "images") else returned.frames


def call_stock(model: Model, settings: Mapping[str, Any], output_type: str = "pt") -> Tensor:
    """Return what a model's pipeline makes with settings of `sample`: pictures, or latents as it returns them.

    Args:
        model: the model.
        settings: arguments of `sample`; ``seed`` is a number.
        output_type: ``"pt"`` for pictures in [0, 1], ``"latent"`` for latents.
    """
    pipe = model.pipe
    own, bars = pipe.scheduler, getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = fresh_scheduler(pipe, None)
    generator = torch.Generator("cpu").manual_seed(settings.get("seed", 0))
    try:
        made = made_of(pipe(**stock_arguments(model, settings), generator=generator, output_type=output_type))
    finally:
        pipe.scheduler, pipe._progress_bar_config = own, bars
    return torch.as_tensor(made)
