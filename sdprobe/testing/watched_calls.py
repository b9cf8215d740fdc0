"""Checks of every call of a hook at a point: its input, its return value, and in-place writes.

A run refuses the first fault and ends. Here a fault is recorded and repaired, so that one run shows all faults. Values
are compared, so that writes without torch, by numpy or ``.data``, are found too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.compose import Hook
from sdprobe.core.hook import POINTS, Observer, overrides
from sdprobe.core.site import Site
from sdprobe.core.step import Step

HELD = ("query", "key", "value", "mask")


@dataclass(frozen=True)
class Noted:
    """The methods called, and their faults: type and form of the return value, in-place writes."""

    calls: list[str] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    form: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


class Spoilt(Exception):
    """A hook wrote into a value that cannot be repaired, so the run was ended."""


def watched(hook: Hook, noted: Noted) -> Hook:
    """Return a copy of a hook whose faults are recorded."""
    methods = {point: _watching(type(hook), point, noted) for point in POINTS if overrides(hook, point)}
    return with_methods(hook, methods)


def with_methods(hook: Hook, methods: dict[str, Callable[..., Any]]) -> Hook:
    """Return a copy of a hook with some methods replaced."""
    other = copy.copy(hook)
    other.__class__ = type(type(hook).__name__, (type(hook),), methods)
    return other


def _watching(kind: type[Hook], point: str, noted: Noted) -> Callable[..., Any]:
    def act(self: Hook, x: Any, place: Any) -> Any:
        where = f"{type(self).__name__}.{point}"
        noted.calls.append(where)
        own, around = _own(x), {name: tensor.detach().clone() for name, tensor in _around(place).items()}
        answer = getattr(kind, point)(self, own, place)
        if not _equal(own, x):
            noted.written.append(f"{where} wrote into its value")
        for name, tensor in _around(place).items():
            if not torch.equal(tensor.nan_to_num(), around[name].nan_to_num()):
                noted.written.append(f"{where} wrote into {name}")
                raise Spoilt(f"{where} wrote into {name}")
        if isinstance(self, Observer):
            noted.kind.extend([f"{where} returned {type(answer).__name__}, not None"] * (answer is not None))
            return None
        if answer is own:
            return x
        if not isinstance(answer, Attention if isinstance(x, Attention) else Tensor):
            noted.kind.append(f"{where} returned {type(answer).__name__}")
            return x
        if isinstance(x, Tensor) and isinstance(answer, Tensor) and (changed := _changed(x, answer)):
            noted.form.append(f"{where} changed {changed}")
            return x
        return answer

    return act


def _own(x: Any) -> Any:
    if isinstance(x, Attention):
        held = {name: value.clone() for name in HELD if (value := getattr(x, name)) is not None}
        return replace(x, **held, _made={})
    return x.clone()


def _around(place: Any) -> dict[str, Tensor]:
    step = place.step if isinstance(place, Site) else place
    found = {"step.latents": step.latents, "step.model_output": step.model_output} if isinstance(step, Step) else {}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _equal(own: Any, x: Any) -> bool:
    if isinstance(x, Attention):
        return all(_equal(getattr(own, name), value) for name in HELD if (value := getattr(x, name)) is not None)
    return own.shape == x.shape and own.dtype == x.dtype and torch.equal(own.nan_to_num(), x.nan_to_num())


def _changed(x: Tensor, answer: Tensor) -> str:
    for what in ("shape", "dtype", "device"):
        before, after = getattr(x, what), getattr(answer, what)
        if before != after:
            return f"the {what} from {_said(before)} to {_said(after)}"
    return ""


def _said(value: object) -> object:
    return list(value) if isinstance(value, torch.Size) else value
