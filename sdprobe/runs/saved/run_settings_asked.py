"""Whether a saved run has the settings that are asked for: by value, or by a function of the value."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from sdprobe.core.run import Settings
from sdprobe.core.short_repr import short_repr
from sdprobe.runs.saved.open_run import SavedRun

FURTHER: Mapping[str, Callable[[SavedRun], Iterable[Any]]] = MappingProxyType(
    {
        "model": lambda run: (run.model_name, run.provenance.source, run.provenance.weights),
        "hooks": lambda run: dict.fromkeys(name for hook in run.hooks for name in hook.called),
    }
)
"""What can be asked for that is no setting."""
SETTINGS = tuple(own.name for own in fields(Settings))


def refuse_unknown(asked: Iterable[str]) -> None:
    """Raise ValueError for a name that no run has, with the choices."""
    choices = (*SETTINGS, *FURTHER)
    for name in asked:
        if name not in choices:
            near = difflib.get_close_matches(name, choices, 1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"runs have no setting {name!r}{meant} What can be asked for: {', '.join(choices)}")


def fits(run: SavedRun, name: str, asked: Any) -> bool:
    """Whether a run has a setting. An exception that a function raises gets a note that says for which run.

    Raises ValueError for several values of a setting of which a run has one.
    """
    found = tuple(FURTHER[name](run)) if name in FURTHER else getattr(run.settings, name)
    several = isinstance(found, tuple)
    values = found if several else (found,)
    if isinstance(asked, type) and name == "hooks":
        return f"{asked.__module__}:{asked.__qualname__}" in {hook.description.kind for hook in run.hooks}
    if callable(asked):
        try:
            return any(asked(value) for value in values if value is not None)
        except Exception as error:
            error.add_note(f"while asking for {name} of {run.folder}")
            raise
    if isinstance(asked, (list, tuple)):
        return several and tuple(asked) == found
    if isinstance(asked, (set, frozenset, range, dict)):
        raise ValueError(f"{name}={short_repr(asked)} is neither a value nor a function: {name}=[...].__contains__")
    return asked in values if asked is not None else found is None
