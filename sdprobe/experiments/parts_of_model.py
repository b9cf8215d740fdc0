"""Which parts of a network a sweep goes over: its blocks, its sites of cross-attention, or patterns that were given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from sdprobe.core.hook import OUTSIDE
from sdprobe.core.module_names import fits

Parts = Mapping[str, tuple[str, ...]]
"""Patterns on module names, by the name of the part."""

GivenParts = str | Mapping[str, str | Iterable[str]] | Iterable[str]
BLOCK = re.compile(
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)(\.attentions\.\d+)?|((joint|single)_)?transformer_blocks\.\d+"
    r"|(transformer_2\.)?blocks\.\d+|((noise|context)_refiner|layers)\.\d+"
    r"|(context_embedder\.token_refiner|text_fusion)\.refiner_blocks\.\d+"
)
ORDER = (
    "context_embedder",
    "text_fusion",
    "noise_refiner",
    "context_refiner",
    "layers",
    "down_blocks",
    "mid_block",
    "up_blocks",
    "joint_transformer_blocks",
    "transformer_blocks",
    "single_transformer_blocks",
    "blocks",
    "transformer_2",
)


def blocks_of(model: Any) -> Parts:
    """Return the blocks of the denoiser, and those with attention within them, in the order of the network.

    >>> import sdprobe
    >>> list(blocks_of(sdprobe.load()))[:5]
    ['down_blocks.0', 'down_blocks.0.attentions.0', 'down_blocks.1', 'down_blocks.1.attentions.0', 'down_blocks.2']

    Args:
        model: a model.

    Raises ValueError for a network without blocks of known names.
    """
    found = sorted(
        (name for name in model.modules if BLOCK.fullmatch(name)),
        key=lambda name: (ORDER.index(name.split(".")[0]), [int(part) for part in name.split(".") if part.isdigit()]),
    )
    if not found:
        raise ValueError(
            f"the blocks of {model!r} have none of the usual names ({', '.join(ORDER)}): name the modules, over=[...]"
        )
    return {name: (name,) for name in found}


def cross_attention_of(model: Any) -> tuple[str, ...]:
    """Return the names of a model's cross-attention modules, in the order of the network.

    >>> import sdprobe
    >>> len(cross_attention_of(sdprobe.load()))
    7

    Args:
        model: a model; of joint attention there are none.
    """
    return _of_kind(model, "cross")


def attention_of(model: Any) -> tuple[str, ...]:
    """Return the names of the modules in which the picture attends to the text: of cross- or else joint attention."""
    return cross_attention_of(model) or _of_kind(model, "joint")


def _of_kind(model: Any, kind: str) -> tuple[str, ...]:
    found = [name for name, module in model.modules.items() if model.attention_kind(module) == kind]
    return tuple(sorted(found, key=lambda name: ORDER.index(place) if (place := name.split(".")[0]) in ORDER else 0))


def named_parts(given: GivenParts, model: Any) -> Parts:
    """Return patterns by name, of what was given: patterns, each of which is a part, or parts by name.

    >>> import sdprobe
    >>> named_parts({"down": "down_blocks.?", "middle": ["mid_block"]}, sdprobe.load())
    {'down': ('down_blocks.?',), 'middle': ('mid_block',)}

    Raises ValueError for a pattern that fits no module of the denoiser, and where there is none.
    """
    if isinstance(given, str):
        given = [given]
    named = given if isinstance(given, Mapping) else {own: own for own in given}
    parts = {str(name): (own,) if isinstance(own, str) else tuple(own) for name, own in named.items()}
    for pattern in (pattern for own in parts.values() for pattern in own):
        if not any(fits(name, pattern) for name in model.modules if not name.startswith(OUTSIDE)):
            near = get_close_matches(pattern, model.modules, 3, 0.5) or list(model.modules)[:3]
            raise ValueError(f"{pattern!r} fits no module of the denoiser; there are, for example, {', '.join(near)}")
    if not parts or not all(parts.values()):
        raise ValueError("name at least one module, such as 'mid_block'")
    return parts
