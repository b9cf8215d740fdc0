"""`refuse_unmatched`: hooks that ask for modules, or for kinds of attention, that a model does not have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from sdprobe.core.compose import Hooks
from sdprobe.core.hook import asks, matches


def refuse_unmatched(hooks: Hooks, point: str, modules: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a hook that would never be called, or with a pattern that matches nothing."""
    for hook in hooks.at(point):
        for pattern in hook.modules or ():
            if not any(matches(name, pattern) for name in modules):
                raise ValueError(
                    f"{hook!r}: the module pattern {pattern!r} matches no {point} site of this model; "
                    f"{_choices(pattern, modules)}"
                )
        if not any(asks(hook, name, kind) for name, kinds in modules.items() for kind in kinds or (None,)):
            known = sorted({kind for kinds in modules.values() for kind in kinds})
            raise ValueError(
                f"{hook!r} asks for {point} of kind {', '.join(hook.kinds or ())} at "
                f"{', '.join(hook.modules or ('*',))}, which this model has not; its kinds: {', '.join(known)}"
            )


def _choices(pattern: str, modules: Iterable[str]) -> str:
    known = list(modules)
    near = difflib.get_close_matches(pattern.strip("*"), known, n=3, cutoff=0.3)
    listed = ", ".join(near or known[:8])
    return f"nearest of its {len(known)}: {listed}"
