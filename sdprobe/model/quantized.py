"""Quantised networks: the packages they need, how many parameters they have, and the words for them."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from sdprobe.model.lost_gradients import is_quantised

PACKAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
        "torchao": ("torchao", "torchao"),
        "quanto": ("optimum", "optimum-quanto"),
        "gguf": ("gguf", "gguf>=0.10.0"),
        "modelopt": ("modelopt", "nvidia-modelopt[hf]"),
        "auto-round": ("auto_round", "auto-round"),
        "sdnq": ("sdnq", "sdnq"),
    }
)
"""Of each method, by diffusers' names: the module that has to be there, and what pip calls it."""


def refuse_missing_package(method: str, what: str) -> None:
    """Raise ImportError, with the line that installs it, if a method's package is not there.

    Args:
        method: diffusers' name of the method; of any other nothing is known, and diffusers says what it needs.
        what: what is quantised, for the message.
    """
    module, package = PACKAGES.get(method, (None, ""))
    if module is not None and find_spec(module) is None:
        raise ImportError(f"{what} is quantised by {method}, which is not installed: pip install '{package}'")


def refuse_missing_packages(folder: Path, index: Mapping[str, Any], given: Container[str]) -> None:
    """Raise ImportError if a part of a folder is quantised by a package that is not there.

    Args:
        folder: a folder in diffusers' format.
        index: its index.
        given: the names of parts that are not loaded from the folder.
    """
    for part in (name for name in index if name not in given):
        path = folder / part / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if (said := config.get("quantization_config")) is not None:
            method = said.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in said else "")
            refuse_missing_package(method, str(folder / part))


def quantisation_of(network: Any) -> str | None:
    """Return how a network is quantised: its method if diffusers or transformers know it, else ``"quantised"``.

    None if it is not.
    """
    method = getattr(network, "quantization_method", None)
    if method is not None and getattr(network, "is_quantized", True):
        return f"quantised by {getattr(method, 'value', method)}"
    return "quantised" if any(is_quantised(module) for module in network.modules()) else None


def parameter_count(network: nn.Module) -> int:
    """Return how many parameters a network has: of packed weights, how many numbers they stand for.

    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    seen: dict[int, int] = {id(own): _shape_of(own).numel() for own in network.parameters()}
    return sum(seen.values()) + sum(_packed(module) for module in network.modules())


def _shape_of(weight: Any) -> torch.Size:
    """Return the shape that a weight stands for: GGUF and bitsandbytes' 4 bits hold bytes of another shape."""
    packed = getattr(weight, "quant_state", weight)
    shape = getattr(weight, "quant_shape", getattr(packed, "shape", None))
    return weight.shape if shape is None else torch.Size(shape)


def _packed(module: nn.Module) -> int:
    """Return how many parameters a layer of `torch.ao.quantization` has, which are no parameters to torch."""
    if not type(module).__module__.startswith("torch.ao.nn.quantized"):
        return 0
    made = (getattr(module, name, None) for name in ("weight", "bias"))
    tensors = (own() if callable(own) else own for own in made)
    return sum(own.numel() for own in tensors if isinstance(own, torch.Tensor))
