"""`Given`: what a run may be given as hooks: hooks, names, pairs of name and configuration, or a dictionary of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def put_before(own: Sequence[Hook], given: Given, of: str) -> Given:
    """Return hooks of our own before those given, which keep their names.

    Args:
        own: our hooks.
        given: the user's.
        of: what ours are of: ``"the inversion"``, for names such as ``"inversion 0"``.

    Raises ValueError for a user's hook with the name of one of ours.
    """
    if not own:
        return given
    if isinstance(given, Mapping):
        named = {f"{of.removeprefix('the ')} {i}": hook for i, hook in enumerate(own)}
        if taken := [name for name in given if name in named]:
            raise ValueError(f"the name {taken[0]!r} is that of a hook of {of} itself: give yours another")
        return {**named, **given}
    return [*own, *each(given)]


def is_pair(given: object) -> bool:
    """Whether this is a pair of a name and a configuration."""
    pair = isinstance(given, (tuple, list)) and len(given) == 2
    return pair and isinstance(given[0], str) and isinstance(given[1], Mapping)  # type: ignore[index]
