"""Hooks by name, over the entry-point group ``sdprobe.hooks``.

Our own hooks come by the road everyone's come by: an entry point of an installed distribution. A name is loaded only
when someone asks for it, so a broken plugin hurts nobody else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sdprobe.compose import Hook, Hooks

GROUP = "sdprobe.hooks"


def names() -> dict[str, EntryPoint]:
    """Every registered name with its entry point, in alphabetical order; nothing is imported."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise ValueError(
                f"two distributions register the hook {entry.name!r}: {_origin(other)} and {_origin(entry)}"
            )
        found[entry.name] = entry
    return found


def create(name: str, **config: Any) -> Hook:
    """The hook registered under a name, built with the configuration.

    Raises ValueError for an unknown name, naming the nearest, and for a configuration the hook does not take.

    >>> import sdprobe
    >>> sdprobe.create("latents", every=5)
    LatentRecorder(every=5)
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no hook is called {name!r}; {hint}The registered names: {', '.join(known)}")
    entry = known[name]
    try:
        factory = entry.load()
    except Exception as error:
        error.add_note(f"while loading the hook {name!r} from {_origin(entry)}")
        raise
    try:
        hook: Hook = factory(**config)
    except TypeError as error:
        raise ValueError(f"the hook {name!r} cannot be built with {config}: {error}") from error
    return hook


def resolve(hooks: Iterable[Hook | Hooks | str] | Hook | Hooks | str) -> tuple[Hooks, dict[str, Hook]]:
    """The hooks as one, every name replaced by the hook registered under it; and those that came by name."""
    given = (hooks,) if isinstance(hooks, (str, Hooks)) or not isinstance(hooks, Iterable) else tuple(hooks)
    by_name = {hook: create(hook) for hook in given if isinstance(hook, str)}
    return Hooks(*(by_name[hook] if isinstance(hook, str) else hook for hook in given)), by_name


def _origin(entry: EntryPoint) -> str:
    dist = entry.dist
    return f"{dist.name} {dist.version} ({entry.value})" if dist is not None else entry.value
