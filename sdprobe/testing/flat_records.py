"""The records of hooks as a flat dictionary, for comparison: every number, text and tensor by its path.

What belongs to the run and not to the hook (the run, its model, functions, progress bars) is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from sdprobe.core.hook import Observer, Transform
from sdprobe.core.run import Run

Records = dict[str, Any]
"""Values by path, such as ``"sums['red'][3]"``."""

PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, Enum, torch.dtype, torch.device, np.generic)


def records_of(hook: object, leaving_out: Collection[str] = ()) -> Records:
    """Return a copy of what a hook, or a run's copy of it, holds now."""
    return {path: _kept(value) for path, value in _parts(hook, "", (type(hook),), leaving_out, ())}


def answers_of(copied: object, names: Collection[str]) -> Records:
    """Return what a run's copy of a hook answers when it is asked for these attributes and properties.

    Of an object in it, what its properties answer: where it keeps its values, in memory or in a folder, may differ. An
    error is an answer too.
    """
    answers: Records = {}
    for name in names:
        try:
            answers |= {path: _kept(value) for path, value in _answers(getattr(copied, name), name, ())}
        except Exception as error:
            answers[name] = f"{type(error).__name__}: {error}"
    return answers


def asked_for(copied: object, given: object) -> list[str]:
    """Return the names of the public attributes and properties of a run's copy of a hook.

    Without what it has from the hook that was given to the run.
    """
    own = [name for name, value in vars(copied).items() if vars(given).get(name) is not value]
    return [name for name in [*own, *_properties(copied)] if not name.startswith("_")]


def live_tensors(hook: object) -> Iterator[tuple[str, Tensor]]:
    """Return the tensors it holds, not copied, each with its path."""
    parts = _parts(hook, "", (type(hook),), (), ())
    return ((path, value) for path, value in parts if isinstance(value, Tensor))


def difference(a: Records, b: Records) -> str | None:
    """Describe the first difference; None if there is none."""
    for path in [*a, *(path for path in b if path not in a)]:
        if path not in a or path not in b:
            return f"{path} is there {'only before' if path in a else 'only after'}"
        if not _same(a[path], b[path]):
            return f"{path} differs"
    return None


def numbers(records: Records) -> Tensor:
    """Return every non-integer number, sorted, so that the order of recording does not matter."""
    found = [torch.as_tensor(value).flatten().double() for value in records.values() if _is_floating(value)]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *(x.cpu() for x in found)]).sort().values


def same_run(a: Run, b: Run) -> bool:
    """Whether two runs have exactly equal latents and images."""
    assert a.latents is not None  # they have ended
    assert b.latents is not None
    return _same(a.latents, b.latents) and [i.tobytes() for i in a.images] == [i.tobytes() for i in b.images]


def _parts(
    value: Any, path: str, roots: tuple[type, ...], leaving_out: Collection[str], above: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (*PLAIN, Tensor, np.ndarray, Image, torch.Generator)):
        yield path, value
    elif isinstance(value, (Run, nn.Module)) or id(value) in above:
        return
    else:
        above = (*above, id(value))
        for name, part in _children(value, path, roots, leaving_out):
            yield from _parts(part, name, roots, leaving_out, above)
        if isinstance(value, (Mapping, list, tuple)):
            yield f"len({path})", len(value)


def _answers(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Run, nn.Module)) or id(value) in above:
        return
    above = (*above, id(value))
    if _is_own(value, ()) and not isinstance(value, Mapping):
        names = [name for name in _properties(value) if not name.startswith("_")]
        for name, part in answers_of(value, names).items():
            yield f"{path}.{name}", part
    elif isinstance(value, (Mapping, list, tuple)):
        for name, part in _children(value, path, (), ()):
            yield from _answers(part, name, above)
        yield f"len({path})", len(value)
    else:
        yield from _parts(value, path, (), (), ())


def _properties(value: object) -> list[str]:
    return [name for name in dir(type(value)) if isinstance(getattr(type(value), name, None), property)]


def _children(
    value: Any, path: str, roots: tuple[type, ...], leaving_out: Collection[str]
) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{path}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{path}[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield path, ", ".join(sorted(map(repr, value)))
    elif _is_own(value, roots):
        dot = f"{path}." if path else ""
        yield from ((dot + name, part) for name, part in vars(value).items() if name not in leaving_out)


def _is_own(value: Any, roots: tuple[type, ...]) -> bool:
    """Whether an object is part of a hook, so that its content is part of the hook's records."""
    if isinstance(value, (Observer, Transform)):
        return True
    if isinstance(value, type) or not hasattr(value, "__dict__") or callable(value):
        return False
    packages = {"sdprobe", *(root.__module__.split(".")[0] for root in roots)}
    return dataclasses.is_dataclass(value) or type(value).__module__.split(".")[0] in packages


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Image):
        return value.mode, value.size, value.tobytes()
    return value.copy() if isinstance(value, np.ndarray) else value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
        return alike and torch.equal(_comparable(a), _comparable(b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    return type(a) is type(b) and bool(a == b)


def _comparable(x: Tensor) -> Tensor:
    return x.nan_to_num() if x.is_floating_point() else x


def _is_floating(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point()
    return isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")
