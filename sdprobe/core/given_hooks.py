"""`Given`: what a run may be given as hooks: hooks, names, pairs of name and configuration, or a dictionary of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sdprobe.core.compose import Hook, Hooks

Pair = tuple[str, Mapping[str, Any]] | list[Any]
One = Hook | Hooks | str | Pair
Given = Iterable[One] | Mapping[str, One] | One


def each(hooks: Given) -> Iterable[Any]:
    """Return the given hooks one by one."""
    if isinstance(hooks, Mapping):
        return hooks.values()
    single = isinstance(hooks, (str, Hooks)) or is_pair(hooks) or not isinstance(hooks, Iterable)
    return (hooks,) if single else hooks  # type: ignore[return-value]


def is_pair(given: object) -> bool:
    """Whether this is a pair of a name and a configuration."""
    pair = isinstance(given, (tuple, list)) and len(given) == 2
    return pair and isinstance(given[0], str) and isinstance(given[1], Mapping)  # type: ignore[index]
