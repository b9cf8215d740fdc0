"""`settings_of`: what the arguments of a call tell of it, where no family knows the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdprobe.core.run_settings import PartlyKnownSettings
from sdprobe.model.unknown.unknown_pipeline import UnknownPipeline
from sdprobe.stock_pipelines.call_arguments import CallArguments, seed_of
from sdprobe.stock_pipelines.prompts_read import texts_of

PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
FRAMES = ("num_frames", "video_length")
SCHEDULES = ("timesteps", "sigmas")


def settings_of(model: UnknownPipeline, arguments: CallArguments) -> PartlyKnownSettings:
    """Return the settings of a call, as far as its arguments tell them; None where they do not."""
    given = arguments.bound.arguments
    texts, negative = (tuple(map(str, texts_of(given, side))) or ("",) for side in ("prompt", "negative_prompt"))
    if "prompt" not in given and "prompt_embeds" not in given:
        texts = ("",) * (_whole(given.get("batch_size")) or _length(given.get("class_labels")) or 1)
    strength, scale = _number(given.get("strength")), _number(given.get("guidance_scale"))
    schedule = next((own for own in map(given.get, SCHEDULES) if isinstance(own, Sequence)), None)
    return PartlyKnownSettings(
        prompt=texts,
        negative_prompt=negative if len(negative) == len(texts) else (negative[0],) * len(texts),
        negative_given=arguments.negative_given,
        steps=_whole(given.get("num_inference_steps")) if schedule is None else len(schedule),
        guidance_scale=scale,
        seed=seed_of(given.get("generator")),
        scheduler=None if model.scheduler is None else type(model.scheduler).__name__,
        height=_whole(given.get("height")),
        width=_whole(given.get("width")),
        images_per_prompt=next((n for n in (_whole(given.get(name)) for name in PER_PROMPT) if n), 1),
        strength=strength,
        frames=next((n for n in (_whole(given.get(name)) for name in FRAMES) if n), None),
    )


def _whole(given: Any) -> int | None:
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _number(given: Any) -> float | None:
    return float(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else None


def _length(given: Any) -> int:
    return len(given) if isinstance(given, Sequence) else 0
