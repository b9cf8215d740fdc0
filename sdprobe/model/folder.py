"""`from_folder` and `from_hub`: a pipeline in diffusers' format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import deprecation_utils

from sdprobe.model.device_map import load_on_devices
from sdprobe.model.hub_cache import snapshot_of
from sdprobe.model.quantized import refuse_missing_packages
from sdprobe.model.saved_parts import check_variant, classes_of, index_of, left_out, saved_dtypes, weight_files

DTYPE = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
"""What diffusers calls the type: newer versions warn of the older name."""


def from_folder(path: Path, options: Mapping[str, Any]) -> DiffusionPipeline:
    """Load the pipeline of a folder in diffusers' format, or of a folder of the hub's cache.

    Args:
        path: the folder.
        options: arguments of diffusers' loading. Without ``torch_dtype``, every part keeps the type it was saved in;
            ``device_map`` may name the parts.

    Raises:
        FileNotFoundError: if it is no such folder.
        ValueError: if the weights are there as other variants only; the message names them.
        ImportError: if a part is quantised by a package that is not installed.
    """
    folder = snapshot_of(path, options.get("revision"))
    index = index_of(folder)
    variant, given = options.get("variant"), {**left_out(index), **options}
    check_variant(folder, index, variant, given)
    refuse_missing_packages(folder, index, given)
    if given.get("torch_dtype") is None and "quantization_config" not in given:
        # Left to itself, diffusers reads networks as float32 and text encoders as they were saved.
        dtypes: dict[str, torch.dtype | None] = {"default": None, **saved_dtypes(folder, index, variant)}
        given["torch_dtype"] = dtypes
    spread = given.get("device_map")
    if isinstance(spread, Mapping):
        files = weight_files(folder, index)
        variants = {part: variant for part, found in files.items() if variant is not None and variant in found}
        loaded = load_on_devices(folder, classes_of(index), variants, given)
        del given["device_map"]
        pipe: DiffusionPipeline = DiffusionPipeline.from_pretrained(folder, **named_options(given | loaded))
        pipe.hf_device_map = {name: spread.get(name, spread.get("")) for name in loaded}  # as diffusers notes its own
        return pipe
    return DiffusionPipeline.from_pretrained(folder, **named_options(given))


def from_hub(name: str, options: Mapping[str, Any]) -> DiffusionPipeline:
    """Load the pipeline of a hub id: what is not in the cache is downloaded, the rest is as of a folder."""
    pipe = from_folder(Path(DiffusionPipeline.download(name, **options)), options)
    pipe.register_to_config(_name_or_path=name)
    return pipe


def named_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the type under the name that this version of diffusers has for it."""
    return {DTYPE if name == "torch_dtype" else name: value for name, value in options.items()}
