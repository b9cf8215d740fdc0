"""A whole pipeline in one file, by the names that the model was published with."""

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
"""The pipeline of each kind of file, as diffusers tells them apart."""


def from_single_file(path: Path, options: Mapping[str, Any]) -> DiffusionPipeline:
    """The pipeline that a file holds. What it leaves out diffusers takes from ``config``, or from the hub.

    Raises ValueError for a file of another kind, naming those that are known.
    """
    return kind_of(path, options.get("config")).from_single_file(str(path), **options)


def kind_of(path: Path, config: str | Path | None = None) -> Any:
    """The pipeline's class: that of the folder in ``config``, if there is one; else by the names in the file."""
    index = None if config is None else Path(config) / "model_index.json"
    if index is not None and index.is_file():
        named = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        for kind in KINDS.values():
            if kind.__name__ == named:
                return kind
        raise ValueError(f"{config} is the folder of a {named}, which is not loaded from one file; {_known()}")
    found = infer_diffusers_model_type(load_single_file_checkpoint(str(path)))  # mapped, not read
    if found not in KINDS:
        raise ValueError(f"{path} holds a model of kind {found!r}, which is not known here; {_known()}")
    return KINDS[found]


def _known() -> str:
    return f"known are files of {', '.join(dict.fromkeys(kind.__name__ for kind in KINDS.values()))}"
