"""Synthetic hooks that act at one point each, to use beside the hook under test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdprobe.core.compose import Hook
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.run import Run

MODULES = {"activation": ("*.0.[fi]*[dfnp]",)}
"""The first feed-forward layers: ``*.0.ff``, ``*.0.ffn``, ``*.0.feed_forward``, or ``*.0.img_mlp`` in Qwen-Image."""

# They ask for all attention; in Sana, self-attention is linear, and they do without it (``strict = False``).


class Affine(Transform):
    """x → a x + b at one point; at ``attention`` the same for the value."""

    strict = False

    def __init__(self, point: str, a: float, b: float) -> None:
        self.point, self.a, self.b = point, a, b
        self.modules = MODULES.get(point)

    def __repr__(self) -> str:
        return f"Affine({self.point!r}, {self.a}, {self.b})"


class Same(Transform):
    """Returns its input."""

    strict = False

    def __init__(self, point: str) -> None:
        self.point = point
        self.modules = MODULES.get(point)

    def __repr__(self) -> str:
        return f"Same({self.point!r})"


class Seen(Observer):
    """Keeps a copy of every value at one point."""

    strict = False

    def __init__(self, point: str) -> None:
        self.point = point
        self.modules = MODULES.get(point)

    def start(self, run: Run) -> None:
        self.values: list[Tensor] = []

    def __repr__(self) -> str:
        return f"Seen({self.point!r})"


class Raising(Observer):
    """Raises an error at one point, or at its start or finish."""

    strict = False

    def __init__(self, method: str, error: BaseException) -> None:
        self.method, self.error = method, error
        self.modules = MODULES.get(method)

    def __repr__(self) -> str:
        return f"Raising({self.method!r}, {self.error!r})"


def affine(point: str, a: float = 0.9, b: float = 0.05) -> Transform:
    """A transform x → a x + b at one point."""

    def act(self: Affine, x: Any, place: object) -> Any:
        return x.with_value(x.value * self.a + self.b) if point == "attention" else x * self.a + self.b

    made: Transform = _acting(Affine, point, act)(point, a, b)
    return made


def same(point: str) -> Transform:
    """The identity at one point."""
    made: Transform = _acting(Same, point, lambda self, x, place: x)(point)
    return made


def seen(point: str) -> Observer:
    """An observer of one point: ``run[it].values``."""

    def act(self: Seen, x: Any, place: object) -> None:
        self.values.append(torch.cat([x.probs().flatten(), x.value.flatten()]) if point == "attention" else x.clone())

    made: Observer = _acting(Seen, point, act)(point)
    return made


def raising(method: str, error: BaseException) -> Observer:
    """An observer that raises an error at one point, or from its ``start`` or ``finish``."""

    def act(self: Raising, *places: object) -> None:
        raise self.error

    made: Observer = _acting(Raising, method, act)(method, error)
    return made


class Differentiated(Transform):
    """Asks for gradients and changes nothing."""

    needs_grad = True

    def noise_pred(self, x: Tensor, step: object) -> Tensor:
        return x


def _acting(base: type[Hook], point: str, act: Any) -> Any:
    return type(base.__name__, (base,), {point: act})
