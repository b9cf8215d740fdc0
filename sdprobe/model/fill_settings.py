"""`fill`: the settings of a run, with the pipeline's defaults, checked before the run."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Settings
from sdprobe.core.weighted_text import read_weights
from sdprobe.model.base import Model
from sdprobe.model.seeds import Seed as Seed
from sdprobe.model.seeds import checked_seed
from sdprobe.model.text.encode_in_chunks import refuse_chunks


def fill(
    model: Model,
    *,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    steps: int | None,
    guidance_scale: float | None,
    seed: Seed | None,
    scheduler: str,
    height: int | None,
    width: int | None,
    images_per_prompt: int,
    latents: Tensor | None,
    image: Any,
    strength: float | None,
    start_step: int | None,
    chunks: bool,
    weights: bool,
    frames: int | None = None,
    guidance_scale_2: float | None = None,
) -> Settings:
    """Return the settings of a run on a model; None means the pipeline's default.

    Raises ValueError or TypeError for an invalid setting.
    """
    prompts = _texts("prompt", prompt)
    negatives = _texts("negative_prompt", "" if negative_prompt is None else negative_prompt)
    if len(negatives) == 1:
        negatives *= len(prompts)
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one, or one each")
    steps = _whole("steps", model.default("num_inference_steps") if steps is None else steps)
    if image is not None and model.img2img is None:
        raise ValueError(
            f"diffusers has no image-to-image pipeline for {type(model).__name__} that would encode and noise a "
            f"picture: it starts from noise, without an image"
        )
    strength, start_step = _entered(model, image, steps, strength, start_step)
    usual_scale = model.default(model.guidance_argument)
    usual_height, usual_width = model.default_size() if image is None else model.size_of(image)
    made = Settings(
        prompt=prompts,
        negative_prompt=negatives,
        steps=steps,
        guidance_scale=_number("guidance_scale", usual_scale if guidance_scale is None else guidance_scale),
        seed=_seed(seed),
        scheduler=scheduler,
        height=usual_height if height is None else _whole("height", height),
        width=usual_width if width is None else _whole("width", width),
        images_per_prompt=_whole("images_per_prompt", images_per_prompt),
        negative_given=negative_prompt is not None,
        strength=strength,
        start_step=start_step,
        chunks=_chunks(model, chunks),
        weights=_weights((*prompts, *negatives), weights),
        frames=_frames(model, frames),
        guidance_scale_2=_second_scale(model, guidance_scale_2),
    )
    if latents is not None and image is not None:
        raise ValueError("latents and image both say what to start from: give one of them")
    _refuse(made, latents, (model.channels, *model.latent_shape(made)))
    # An image's own size is rounded for the autoencoder; a size that was asked for must fit the pipeline's rule.
    unit = model.multiple
    if any(size is not None and (size % unit or size < unit) for size in (height, width)):
        raise ValueError(f"height and width must be multiples of {unit}, not {made.height} and {made.width}")
    return made


def of_steps(model: Model, steps: int, scheduler: str) -> Settings:
    """Return settings with a placeholder prompt, at the model's own size."""
    height, width = model.default_size()
    frames = model.default_frames
    return Settings(("",), ("",), steps, 1.0, 0, scheduler, height, width, images_per_prompt=1, frames=frames)


def changed(
    settings: Settings,
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
    guidance_scale: float | None,
) -> Settings:
    """Return the settings of a resumed run with other texts, or another guidance scale."""
    found: dict[str, Any] = {}
    for name, given in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if given is not None:
            texts = _texts(name, given)
            texts *= len(settings.prompt) if len(texts) == 1 else 1
            if len(texts) != len(settings.prompt):
                raise ValueError(f"{len(texts)} texts for {len(settings.prompt)} prompts: give one, or one each")
            found[name] = texts
            found |= {"negative_given": True} if name == "negative_prompt" else {}
    if guidance_scale is not None:
        found["guidance_scale"] = _number("guidance_scale", guidance_scale)
    _weights([*found.get("prompt", ()), *found.get("negative_prompt", ())], settings.weights)
    return replace(settings, **found)


def _texts(name: str, given: str | Sequence[str]) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} is a text or a list of texts, not {given!r}")
    return texts


def _seed(seed: Seed | None) -> int | tuple[int, ...]:
    if seed is None:
        return int(torch.randint(2**31, ()))  # from torch's own generator, so that torch.manual_seed has an effect
    return checked_seed(seed)


def _chunks(model: Model, given: bool) -> bool:
    if not isinstance(given, bool):
        raise TypeError(f"chunks is True or False, not {given!r}: how many there are follows from the prompts")
    if given:
        refuse_chunks(model)
    return given


def _weights(texts: Sequence[str], given: bool) -> bool:
    if not isinstance(given, bool):
        raise TypeError(f"weights is True or False, not {given!r}: the weights themselves stand in the prompt")
    for text in texts if given else ():
        read_weights(text)  # raises an error for one that cannot be read
    return given


def _frames(model: Model, given: int | None) -> int | None:
    usual = model.default_frames
    if given is None or usual is None:
        if given is not None:
            raise ValueError(f"frames is for models of videos: {type(model).__name__} makes images")
        return model.frames_made(usual)
    factor, frames = model.temporal_factor, _whole("frames", given)
    if frames < 1 or ((frames - 1) % factor and model.frames_made(frames) != frames):
        first = max(frames - 1, 0) // factor * factor + 1
        kept = [n for n in range(first, first + 4 * factor + 1, factor) if model.frames_made(n) == n]
        raise ValueError(f"frames is 1 more than a multiple of {factor}, such as {kept[0]} or {kept[1]}, not {frames}")
    return model.frames_made(frames)


def _second_scale(model: Model, given: float | None) -> float | None:
    if given is not None and len(model.networks) == 1:
        raise ValueError(
            f"guidance_scale_2 is for steps of a second denoiser, and {model!r} has one: give guidance_scale alone"
        )
    return None if given is None else _number("guidance_scale_2", given)


def _whole(name: str, given: Any) -> int:
    try:
        return operator.index(given)
    except TypeError:
        whole = isinstance(given, float) and given.is_integer()
        raise ValueError(f"{name} is a whole number, not {given!r}{f': write {int(given)}' if whole else ''}") from None


def _number(name: str, given: Any) -> float:
    refuse_not_finite(name, given)
    return float(given)


def _entered(
    model: Model, image: Any, steps: int, strength: float | None, start: int | None
) -> tuple[float | None, int]:
    """Return the strength, and the step to begin at."""
    if image is None:
        if strength is not None:
            raise ValueError("strength says how much of a picture to replace, but no image is given")
        if start is not None:
            raise ValueError("start_step says where to enter with a picture, but no image is given")
        return None, 0
    if start is not None:
        if strength is not None:
            raise ValueError("strength and start_step both say where to begin: give one of them")
        if not 0 <= _whole("start_step", start) < steps:
            raise ValueError(f"start_step {start} is not one of {steps} steps, counted from 0")
        return (steps - start) / steps, start
    strength = (
        0.8 if strength is None else _number("strength", strength)
    )  # the default of diffusers' image-to-image pipeline
    return strength, model.left_out(steps, strength)


def _refuse(made: Settings, latents: Tensor | None, shape: tuple[int, ...]) -> None:
    if made.steps < 1:
        raise ValueError(f"steps must be 1 or more, not {made.steps}")
    if made.images_per_prompt < 1:
        raise ValueError(f"images_per_prompt must be 1 or more, not {made.images_per_prompt}")
    if made.strength is not None and not (0 < made.strength <= 1 and made.start_step < made.steps):
        raise ValueError(f"strength {made.strength} of {made.steps} steps leaves none: it lies in (0, 1]")
    if isinstance(made.seed, tuple) and len(made.seed) != made.images:
        raise ValueError(f"{len(made.seed)} seeds for {made.images} images: give one number, or one per image")
    if latents is not None and not isinstance(latents, Tensor):
        raise TypeError(f"latents are a tensor [images, channels, h, w], not {type(latents).__name__}")
    if latents is not None and tuple(latents.shape) != (made.images, *shape):
        raise ValueError(
            f"latents must be [{'images' if made.frames is None else 'videos'}, channels, "
            f"{'' if made.frames is None else 'frames, '}h, w] = {(made.images, *shape)}, not {tuple(latents.shape)}"
        )
    if latents is not None:
        refuse_not_finite("latents", latents)
