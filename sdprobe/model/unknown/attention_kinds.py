"""`attention_kinds`: which modules of a network that no family knows are attention, and of which kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import nn

UNKNOWN = "unknown"
NAMED = re.compile(r"Attention|Attn")
ATTENDS_TO = {"cross": "another sequence", "self": "its own sequence", "joint": "two sequences", UNKNOWN: "not known"}


def attention_kinds(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return the kind of each attention module, by its name, as far as it is known before the module runs.

    A module is one if it is of diffusers' own class of attention, or if its class is named so and no attention is
    within it. ``"joint"``: it projects a second sequence of queries. ``"cross"``: it says so. ``"self"``: it says that
    it is not cross-attention, in a network in which others are; in a network without, the text may be a part of the
    same sequence. ``"unknown"``: all else.

    Args:
        modules: the network's modules by name.
    """
    sure = [name for name, module in modules.items() if is_attention(module)]
    named = [name for name, module in modules.items() if name not in sure and _is_named(module)]
    every = [*sure, *named]
    innermost = [name for name in named if not any(other.startswith(f"{name}.") for other in every)]
    found = {name: _kind(module) for name, module in modules.items() if name in sure or name in innermost}
    crossing = "cross" in found.values() and "joint" not in found.values()
    return {name: UNKNOWN if kind == "self" and not crossing else kind for name, kind in found.items()}


def is_attention(module: nn.Module) -> bool:
    """Whether a module is of diffusers' own classes of attention."""
    return isinstance(module, (Attention, AttentionModuleMixin))


def possible_kinds(kind: str) -> tuple[str, ...]:
    """Return the kinds that calls of a module of a kind may turn out to be."""
    return (UNKNOWN, "cross") if kind == UNKNOWN else (kind, UNKNOWN) if kind == "self" else (kind,)


def kind_of_call(module: Any, kind: str, queries: int, keys: int) -> str:
    """Return the kind of one call of a module, from the numbers of its queries and keys.

    Args:
        module: the module.
        kind: its kind, as far as it was known before.
        queries: the number of queries.
        keys: the number of keys.
    """
    if queries == keys or kind in ("cross", "joint"):
        return kind
    if kind == "self" or getattr(module, "added_kv_proj_dim", None) is not None:
        return UNKNOWN  # keys of its own sequence, of which some are added or joined
    return "cross"


def _is_named(module: nn.Module) -> bool:
    name = type(module).__name__
    return NAMED.search(name) is not None and "Processor" not in name


def _kind(module: Any) -> str:
    if getattr(module, "add_q_proj", None) is not None:
        return "joint"
    if getattr(module, "added_kv_proj_dim", None) is not None:
        return UNKNOWN
    crossing = getattr(module, "is_cross_attention", None)
    return UNKNOWN if crossing is None else "cross" if crossing else "self"
