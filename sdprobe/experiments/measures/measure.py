"""`Measure`: a function of a run that returns a number, and `measured`, which calls it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from sdprobe.core.run import Run
from sdprobe.experiments.case import Case

Measure = Callable[..., Any]
"""A function of a `Run`, of a run and the untouched one, or of these and the `Case`.

It returns a number, or True or False; None where there is nothing to be said of this picture; or several of these by
name. The run has one image, or one video, whose frames are ``run.images``. To be sent to another process it is a
function of a module, or a frozen dataclass with ``__call__``."""

Value = float | bool | None


def measured(measure: Measure, run: Run, untouched: Run, case: Case) -> dict[str, Value]:
    """Call a measure with as many of run, untouched run and case as it takes; return its values by name.

    >>> measured(lambda run: {"a": 1, "b": True}, None, None, None)
    {'a': 1.0, 'b': True}

    Raises TypeError for something else than numbers.
    """
    found = measure(*(run, untouched, case)[: arguments_of(measure)])
    parts = found if isinstance(found, Mapping) else {"": found}
    return {str(name): _as_value(value, measure) for name, value in parts.items()}


def arguments_of(measure: Measure) -> int:
    """Return how many arguments a measure takes: 1 to 3. Raises TypeError for others."""
    try:
        taken = inspect.signature(measure).parameters.values()
    except ValueError:  # written in C
        return 1
    positional = [own for own in taken if own.kind in (own.POSITIONAL_ONLY, own.POSITIONAL_OR_KEYWORD)]
    needed = [own for own in positional if own.default is own.empty]
    if any(own.kind == own.VAR_POSITIONAL for own in taken):
        return 3
    asked = [own for own in taken if own.kind == own.KEYWORD_ONLY and own.default is own.empty]
    if asked or not positional or len(needed) > 3:
        raise TypeError(
            f"a measure is a function of a run, of a run and the untouched one, or of these and the case, not "
            f"{measure!r}, which takes {inspect.signature(measure)}"
        )
    return max(len(needed), 1)


def named(measures: Any) -> dict[str, Measure]:
    """Return measures by name: those of a dictionary, or by the name that each has. Raises TypeError for no measure."""
    if isinstance(measures, str):
        raise TypeError(f"a measure is a function of a run, not the text {measures!r}")
    if isinstance(measures, Mapping):
        found = {str(name): own for name, own in measures.items()}
    else:
        several = [measures] if callable(measures) else list(measures)
        found = {}
        for own in several:
            name = getattr(own, "name", None) or getattr(own, "__name__", None) or type(own).__name__
            if name in found:
                raise ValueError(f"two measures are called {name!r}: give them names, in a dictionary")
            found[str(name)] = own
    if not found:
        raise ValueError("an experiment measures something: give at least one function of a run")
    for name, own in found.items():
        if (whole := name.partition(".")[0]) in found and whole != name:
            raise ValueError(f"the measure {name!r} is called as a part of the measure {whole!r}: give it another name")
        if not callable(own):
            raise TypeError(f"the measure {name!r} is no function but {own!r:.80}")
        arguments_of(own)
    return found


def _as_value(value: Any, measure: Measure) -> Value:
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        if np.prod(value.shape) != 1:
            raise TypeError(f"{measure!r} returned {list(value.shape)} numbers: a measure is one number of a picture")
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return float(value)
    raise TypeError(f"{measure!r} returned {value!r:.80}: a measure is a number, True, False, None, or several by name")
