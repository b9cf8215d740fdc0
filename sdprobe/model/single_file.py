"""`from_single_file`: a whole pipeline in one checkpoint file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

KINDS: Mapping[str, Any] = MappingProxyType(
    {
        "v1": StableDiffusionPipeline,
        "v2": StableDiffusionPipeline,
        "xl_base": StableDiffusionXLPipeline,
        "playground-v2-5": StableDiffusionXLPipeline,
        "sd3": StableDiffusion3Pipeline,
        "sd35_medium": StableDiffusion3Pipeline,
        "sd35_large": StableDiffusion3Pipeline,
        "flux-dev": FluxPipeline,
        "flux-schnell": FluxPipeline,
    }
)
"""The pipeline class of each kind of file, by diffusers' names of the kinds."""


def from_single_file(path: Path, options: Mapping[str, Any]) -> DiffusionPipeline:
    """Load the pipeline from a file. diffusers takes missing parts from ``config``, or from the hub.

    Raises ValueError for a file of another kind, naming the known ones.
    """
    return kind_of(path, options.get("config")).from_single_file(str(path), **options)


def kind_of(path: Path, config: str | Path | None = None) -> Any:
    """Return the pipeline's class: of the folder in ``config`` if given, else by the parameter names of the file."""
    index = None if config is None else Path(config) / "model_index.json"
    if index is not None and index.is_file():
        named = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        for kind in KINDS.values():
            if kind.__name__ == named:
                return kind
        raise ValueError(f"{config} is the folder of a {named}, which is not loaded from one file; {_known()}")
    found = infer_diffusers_model_type(load_single_file_checkpoint(str(path)))  # memory-mapped, not read
    if found not in KINDS:
        raise ValueError(f"{path} holds a model of kind {found!r}, which is not known here; {_known()}")
    return KINDS[found]


def _known() -> str:
    return f"known are files of {', '.join(dict.fromkeys(kind.__name__ for kind in KINDS.values()))}"
