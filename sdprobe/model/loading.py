"""`load`: the embedded model, a folder, a hub id, a single file, or a live pipeline, as a `Model`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline, ModularPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from sdprobe import shapes
from sdprobe.model.base import Model
from sdprobe.model.device_map import check_device_map, refuse_to_move
from sdprobe.model.families.aura_flow import AuraFlow
from sdprobe.model.families.cogvideox import CogVideoX
from sdprobe.model.families.flux import Flux
from sdprobe.model.families.flux2 import Flux2
from sdprobe.model.families.hunyuan_video import HunyuanVideo
from sdprobe.model.families.krea2 import Krea2
from sdprobe.model.families.ltx import LTX
from sdprobe.model.families.lumina2 import Lumina2
from sdprobe.model.families.pixart import PixArt
from sdprobe.model.families.qwen_image import QwenImage
from sdprobe.model.families.sana import Sana
from sdprobe.model.families.stable_diffusion import StableDiffusion
from sdprobe.model.families.stable_diffusion_3 import StableDiffusion3
from sdprobe.model.families.stable_diffusion_xl import StableDiffusionXL
from sdprobe.model.families.wan import Wan
from sdprobe.model.families.z_image import ZImage
from sdprobe.model.folder import from_folder, from_hub, named_options
from sdprobe.model.saved_parts import index_of, left_out
from sdprobe.model.single_file import from_single_file
from sdprobe.shapes.joint_model import shared_autoencoder

FAMILIES: list[type[Model]] = [
    *(StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, PixArt, AuraFlow, QwenImage, Krea2, Sana),
    *(Flux2, Lumina2, ZImage),
    *(LTX, CogVideoX, HunyuanVideo, Wan),
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
            model, a small Stable Diffusion 3 with joint attention; a folder in diffusers' format; a folder of the hub's
            cache, ``models--owner--name``; a checkpoint file (``.safetensors``, ``.ckpt``, ``.gguf``) of a whole
            pipeline or, with ``config=``, of a denoiser alone; a hub id such as
            ``"stable-diffusion-v1-5/stable-diffusion-v1-5"``; or a live pipeline, which is used as it is (and moved or
            cast if ``dtype`` or ``device`` is given).
        dtype: the parameters' type, for example ``torch.float16``; None keeps the saved type (a live pipeline's own).
            Layers that a model keeps in float32 stay in it, and parts in ``options`` as they are.
        device: the device, for example ``"cuda"``.
        options: arguments of diffusers' loading, not for a live pipeline: ``variant="fp16"``,
            ``quantization_config=``, parts such as ``vae=``; ``config=``, the folder or hub id that the parts come from
            which a single file lacks; ``device_map=``, ``"balanced"``, ``"cuda"`` or a device for each part by name, in
            place of ``device``.

    Raises:
        FileNotFoundError: for a path that does not exist, or a folder without a model.
        ImportError: for quantised weights whose package is not installed; the message says how to install it.
        TypeError: for what is no model, and for options beside a live pipeline.
        ValueError: for a pipeline of an unknown family, for a variant that is not there and for a single file that
            needs ``config=``; the message names the choices. For a device that is not there, and for one given for a
            pipeline that is spread over devices.
    """
    if isinstance(source, Model):
        source = source.pipe
    check_device_map(options.get("device_map"), device)
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but torch sees no GPU here")
    if source is None or isinstance(source, (str, Path)):
        pipe, cast = _loaded(source, dtype, options), None
    elif isinstance(source, ModularPipeline):
        task = task_pipeline(source)
        raise TypeError(
            f"{type(source).__name__} runs a loop of its own blocks, which sdprobe.attach(pipe, hooks) listens to"
            f"{'' if task is None else f'; to load is {task}, with the same parts'}"
        )
    elif not isinstance(source, DiffusionPipeline):
        raise TypeError(f"a model is a path, a hub id or a diffusers pipeline, not {type(source).__name__}")
    elif options:
        raise TypeError(f"a live pipeline is loaded already and takes no {', '.join(options)}")
    else:
        pipe, cast = source, dtype
    model = family_of(pipe)(pipe)
    # What was loaded has its type already; a further cast would take float32 from the layers that are kept in it.
    if cast is not None or device is not None:
        refuse_to_move(pipe, device, cast)
        pipe.to(**{k: v for k, v in {"dtype": cast, "device": device}.items() if v is not None})
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


def task_pipeline(pipe: ModularPipeline) -> str | None:
    """Return the pipeline of a known family that does what a modular one does, by name; None if there is none.

    >>> from diffusers import FluxModularPipeline
    >>> task_pipeline(FluxModularPipeline())
    'FluxPipeline'
    """
    known = [name for family in FAMILIES for name in (*family.pipelines, *family.variants)]
    names = (kind.__name__.replace("ModularPipeline", "Pipeline") for kind in type(pipe).__mro__)
    return next((name for name in names if name in known), None)


def _loaded(source: str | Path | None, dtype: torch.dtype | None, options: dict[str, Any]) -> DiffusionPipeline:
    if dtype is not None:
        options = {**options, "torch_dtype": dtype}
    if source in (None, "shapes"):
        with without_bars():
            return DiffusionPipeline.from_pretrained(shapes.WEIGHTS, local_files_only=True, **named_options(options))
    if source == "shapes-joint":
        return _shapes_joint(options)
    path = Path(source).expanduser()
    if path.is_file():
        return from_single_file(path, options)
    if path.is_dir():
        return from_folder(path, options)
    if isinstance(source, Path) or str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise FileNotFoundError(f"{source} is neither a file or folder here nor a hub id like 'owner/name'")
    return from_hub(str(source), options)


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
        given = {**left_out(index_of(shapes.JOINT_WEIGHTS)), **given}
        return DiffusionPipeline.from_pretrained(shapes.JOINT_WEIGHTS, **named_options(given))


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
