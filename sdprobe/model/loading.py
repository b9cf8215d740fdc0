"""`load`: the embedded model, a folder, a hub id, a single file, or a live pipeline, as a `Model`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from sdprobe import shapes
from sdprobe.model.base import Model
from sdprobe.model.families.flux import Flux
from sdprobe.model.families.lumina2 import Lumina2
from sdprobe.model.families.pixart import PixArt
from sdprobe.model.families.qwen_image import QwenImage
from sdprobe.model.families.sana import Sana
from sdprobe.model.families.stable_diffusion import StableDiffusion
from sdprobe.model.families.stable_diffusion_3 import StableDiffusion3
from sdprobe.model.families.stable_diffusion_xl import StableDiffusionXL
from sdprobe.model.single_file import from_single_file
from sdprobe.shapes.joint_model import shared_autoencoder

FAMILIES: list[type[Model]] = [
    StableDiffusion,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    PixArt,
    QwenImage,
    Sana,
    Lumina2,
]
"""The families that `load` knows; if two know a pipeline, the first is used."""

Family = TypeVar("Family", bound=type[Model])


def load(
    source: str | Path | DiffusionPipeline | Model | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> Model:
    """Load a model.

    >>> import sdprobe
    >>> sdprobe.load()
    StableDiffusion(StableDiffusionPipeline, denoiser ... M parameters)

    Args:
        source: None or ``"shapes"`` for the model in this package (offline); ``"shapes-joint"`` for the second embedded
            model, a small Stable Diffusion 3 with joint attention; a folder in diffusers' format; a single checkpoint
            file (``.safetensors``, ``.ckpt``) of any family but PixArt; a hub id such as
            ``"stable-diffusion-v1-5/stable-diffusion-v1-5"``; or a live pipeline, which is used as it is (and moved or
            cast if ``dtype`` or ``device`` is given).
        dtype: the parameters' type, for example ``torch.float16``; None keeps the saved type (a live pipeline's own).
        device: the device, for example ``"cuda"``.
        options: arguments of diffusers' loading, for example ``variant="fp16"``; not for a live pipeline.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for a pipeline of an unknown family; the message names the known ones.
    """
    if isinstance(source, Model):
        source = source.pipe
    if source is None or isinstance(source, (str, Path)):
        pipe = _loaded(source, dtype, options)
    elif not isinstance(source, DiffusionPipeline):
        raise TypeError(f"a model is a path, a hub id or a diffusers pipeline, not {type(source).__name__}")
    elif options:
        raise TypeError(f"a live pipeline is loaded already and takes no {', '.join(options)}")
    else:
        pipe = source
    model = family_of(pipe)(pipe)
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but torch sees no GPU here")
    if dtype is not None or device is not None:
        pipe.to(**{k: v for k, v in {"dtype": dtype, "device": device}.items() if v is not None})
    return model


def family(kind: Family) -> Family:
    """Register a family for `load`: a decorator for a `Model` subclass that defines its ``pipelines``.

    It comes before the known families, so it may replace one of them for a pipeline.
    """
    if not kind.pipelines:
        raise ValueError(f"{kind.__name__} does not say its pipelines, by the names of their classes")
    FAMILIES.insert(0, kind)
    return kind


def family_of(pipe: DiffusionPipeline) -> type[Model]:
    """Return the family of a pipeline. Raises ValueError with the known ones."""
    name = type(pipe).__name__
    for family in FAMILIES:
        if any(kind.__name__ in family.pipelines for kind in type(pipe).__mro__):
            return family
    known = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise ValueError(
        f"{name} is of a family not known here; known pipelines: {known}. To add one, derive a class from "
        f"sdprobe.model.base.Model and put @sdprobe.model.loading.family before it: docs/concepts/families.md"
    )


def _loaded(source: str | Path | None, dtype: torch.dtype | None, options: dict[str, Any]) -> DiffusionPipeline:
    if dtype is not None:
        options = {**options, "torch_dtype": dtype}
    if source in (None, "shapes"):
        with without_bars():
            return DiffusionPipeline.from_pretrained(shapes.WEIGHTS, local_files_only=True, **options)
    if source == "shapes-joint":
        return _shapes_joint(options)
    path = Path(source).expanduser()
    if path.is_file():
        return from_single_file(path, options)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise FileNotFoundError(f"{path} holds no model_index.json: it is no folder in diffusers' format")
        return DiffusionPipeline.from_pretrained(path, **{**_left_out(path), **options})
    if isinstance(source, Path) or str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise FileNotFoundError(f"{source} is neither a file or folder here nor a hub id like 'owner/name'")
    return DiffusionPipeline.from_pretrained(str(source), **options)


def _shapes_joint(options: dict[str, Any]) -> DiffusionPipeline:
    if not (shapes.JOINT_WEIGHTS / "model_index.json").is_file():
        raise FileNotFoundError(
            "'shapes-joint' is not shipped with this version. To train it: python -m sdprobe.shapes.train joint; "
            "then put it in its place: python -m sdprobe.shapes.train export-joint"
        )
    # The weights are stored as float16, to be small; the model computes in float32 unless another type is given.
    given = {"torch_dtype": torch.float32, "local_files_only": True, **options}
    with without_bars():
        if "vae" not in given:
            given["vae"] = shared_autoencoder(shapes.WEIGHTS, given["torch_dtype"])
        return DiffusionPipeline.from_pretrained(shapes.JOINT_WEIGHTS, **{**_left_out(shapes.JOINT_WEIGHTS), **given})


def _left_out(folder: Path) -> dict[str, None]:
    """Return text encoders that a pipeline was saved without, such as T5; diffusers needs them as None."""
    index = json.loads((folder / "model_index.json").read_text())
    return {name: None for name, part in index.items() if name.startswith(("text", "token")) and part == [None, None]}


@contextmanager
def without_bars() -> Iterator[None]:
    """While this is open, diffusers and transformers show no loading bars; afterwards their settings are restored."""
    logs = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in logs:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in logs:
            log.enable_progress_bar()
