"""`Loss`: a named loss that can be added and weighted."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, ParamSpec

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

Pictures = Float[Tensor, "images 3 height width"]
PerImage = Float[Tensor, " images"]
Given = ParamSpec("Given")


@dataclass(frozen=True, eq=False, repr=False)
class Loss:
    """A loss with a name. Call it, add it to another loss, or multiply it by a weight.

    >>> import torch
    >>> import sdprobe.losses as losses
    >>> both = losses.blue() + 0.5 * losses.total_variation()
    >>> both, both(torch.zeros(2, 3, 8, 8))
    (blue() + 0.5 * total_variation(), tensor([0.9000, 0.9000]))

    Args:
        name: its repr.
        of: the function.
        again: makes the loss again, for pickling. None to pickle the function itself.
    """

    name: str
    of: Callable[[Pictures], PerImage] = field(repr=False)
    again: Callable[[], Loss] | None = field(default=None, repr=False)

    def __call__(self, pictures: Pictures) -> PerImage:
        return self.of(pictures)

    def __add__(self, other: Loss) -> Loss:
        name = f"{self.name} + {other.name}"
        return Loss(name, lambda pictures: self(pictures) + other(pictures), partial(operator.add, self, other))

    def __mul__(self, weight: float) -> Loss:
        name = f"({self.name})" if " + " in self.name else self.name
        again = partial(operator.mul, self, weight)
        return Loss(f"{weight:g} * {name}", lambda pictures: weight * self(pictures), again)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return (Loss, (self.name, self.of)) if self.again is None else (operator.call, (self.again,))


def made_again(make: Callable[Given, Loss]) -> Callable[Given, Loss]:
    """Decorate a function that makes a loss, so that the loss can be pickled by its arguments."""

    @wraps(make)
    def making(*args: Given.args, **kwargs: Given.kwargs) -> Loss:
        return replace(make(*args, **kwargs), again=partial(making, *args, **kwargs))

    return making


def as_tensor(picture: Any) -> Pictures:
    """Return an image, PIL, uint8 array or tensor, as ``[1, 3, height, width]`` in [0, 1]."""
    if isinstance(picture, Tensor):
        return picture.detach().reshape(-1, *picture.shape[-3:])
    own = picture.convert("RGB") if isinstance(picture, Image.Image) else picture
    return torch.from_numpy(np.array(own)).permute(2, 0, 1)[None].float() / 255


def said(name: str, arguments: Sequence[object]) -> str:
    """Return the repr of a loss from its name and arguments."""
    return f"{name}({', '.join(map(repr, arguments))})"
