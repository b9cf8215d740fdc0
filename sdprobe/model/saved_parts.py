"""The parts of a folder in diffusers' format: their classes, the files of their weights, variants and dtypes."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<old>\w+))?"
    r"\.(?:safetensors|bin)"
)
"""The name of a file of weights: with its variant before the number of the shard, or after it as once was the rule."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The types that a network computes in, by their names in safetensors."""


def index_of(folder: Path) -> dict[str, Any]:
    """Return what ``model_index.json`` says. Raises FileNotFoundError if the folder has none."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no model_index.json: it is no folder in diffusers' format")
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def classes_of(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the classes of a pipeline's parts by the parts' names; parts that it was saved without are left out."""
    named = {name: part for name, part in index.items() if isinstance(part, (list, tuple)) and len(part) == 2}
    return {name: _class_of(*part) for name, part in named.items() if all(isinstance(x, str) for x in part)}


def _class_of(library: str, name: str) -> Any:
    if library in ("diffusers", "transformers"):
        return getattr(importlib.import_module(library), name)
    return getattr(getattr(diffusers.pipelines, library), name)


def left_out(index: Mapping[str, Any]) -> dict[str, None]:
    """Return text encoders that a pipeline was saved without, such as T5; diffusers needs them as None."""
    return {name: None for name, part in index.items() if name.startswith(("text", "token")) and part == [None, None]}


def weight_files(folder: Path, index: Mapping[str, Any]) -> dict[str, dict[str | None, list[Path]]]:
    """Return the files of every part's weights by their variant; None for those that are of no variant."""
    files: dict[str, dict[str | None, list[Path]]] = {}
    for part in (name for name in index if (folder / name).is_dir()):
        for path in sorted((folder / part).iterdir()):
            if found := WEIGHTS.fullmatch(path.name):
                files.setdefault(part, {}).setdefault(found["variant"] or found["old"], []).append(path)
    return files


def check_variant(folder: Path, index: Mapping[str, Any], variant: str | None, given: Container[str]) -> None:
    """Raise ValueError if the weights are not there in this variant, naming those that are.

    Args:
        folder: a folder in diffusers' format.
        index: its index.
        variant: the variant that is asked for. A part that has none of its own is loaded without.
        given: the names of parts that are not loaded from the folder.
    """
    files = {part: found for part, found in weight_files(folder, index).items() if part not in given}
    known = sorted({name for found in files.values() for name in found if name is not None})
    if variant is not None and files and not any(variant in found for found in files.values()):
        there = f"there are {', '.join(map(repr, known))}" if known else "it has no variants: leave variant= out"
        raise ValueError(f"{folder} holds no weights of the variant {variant!r}; {there}")
    for part, found in files.items():
        if None not in found and variant not in found:
            only = ", ".join(sorted(repr(name) for name in found))
            raise ValueError(f"{folder / part} holds its weights as the variant {only} only: load it with variant=")


def saved_dtypes(folder: Path, index: Mapping[str, Any], variant: str | None) -> dict[str, torch.dtype]:
    """Return the type of every part's weights, that of most of its numbers.

    Parts are left out whose weights are quantised or no safetensors.
    """
    found: dict[str, torch.dtype] = {}
    for part, files in weight_files(folder, index).items():
        config = folder / part / "config.json"
        quantised = config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8"))
        paths = [path for path in files.get(variant, files.get(None, [])) if path.suffix == ".safetensors"]
        counts: Counter[str] = Counter()
        for path in () if quantised else paths:
            counts += numbers_by_type(path)
        if counts and (most := counts.most_common(1)[0][0]) in DTYPES:
            found[part] = DTYPES[most]
    return found


def numbers_by_type(path: Path) -> Counter[str]:
    """Return how many numbers a ``.safetensors`` file holds of each type; no number is read."""
    counts: Counter[str] = Counter()
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - a file, no dict
            part = file.get_slice(name)
            counts[part.get_dtype()] += torch.Size(part.get_shape()).numel()
    return counts
