"""What a run and a call of a stock pipeline are held against each other by."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import sdprobe

RENAMED = {"steps": "num_inference_steps", "images_per_prompt": "num_images_per_prompt"}
"""Settings that diffusers calls by another name."""


def stock_arguments(model: sdprobe.Model, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a pipeline's own call is given for these settings of `sample`."""
    takes = signature(type(model.pipe).__call__).parameters
    named = RENAMED | {"guidance_scale": model.guidance_argument}
    if "num_frames" in takes:
        named |= {"images_per_prompt": "num_videos_per_prompt", "frames": "num_frames"}
    given = {named.get(name, name): value for name, value in settings.items()}
    given |= {name: list(value) for name, value in given.items() if isinstance(value, list)}  # Z-Image writes into it
    scale = settings.get("guidance_scale", 0.0)
    if model.guidance_argument != "guidance_scale" and scale > 1:
        given.setdefault("negative_prompt", "")  # without one there is no guidance in such a pipeline
    if "negative_prompt" in given and isinstance(given.get("prompt"), list):
        given["negative_prompt"] = [given["negative_prompt"]] * len(given["prompt"])
    if "use_resolution_binning" in takes and model.denoiser.config.sample_size == 8:
        given["use_resolution_binning"] = False  # a pipeline knows no sizes for a network so small
    return given


def made_of(returned: Any) -> Any:
    """The pictures, or the videos, that a pipeline returned."""
    return returned.images if hasattr(returned, "images") else returned.frames


def observers() -> list[sdprobe.Observer]:
    """Observers that must change nothing, of every kind."""
    return [
        sdprobe.AttentionMaps(keep=("step", "layer", "head")),
        sdprobe.AttentionMaps(words=["a"]),
        sdprobe.SelfAttentionMaps(strict=False),
        sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised")),
        sdprobe.Statistics(),
        sdprobe.Progress(),
    ]
