"""`LabelledArray`: an array whose dimensions have names and coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Coordinate = tuple[tuple[str, ...], Array]
"""The dimensions of a coordinate, and its values."""


@dataclass(frozen=True, eq=False)
class LabelledArray:
    """An array with a name, names of its dimensions, coordinates, and what there is to say of it.

    Args:
        name: the name.
        dims: the name of each dimension.
        values: the numbers.
        coords: coordinates by name, each with its own dimensions, which are some of ``dims``. One of the name of a
            dimension says what is where along it.
        attrs: texts, numbers and lists of them.
    """

    name: str
    dims: tuple[str, ...]
    values: Array
    coords: Mapping[str, Coordinate] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each dimension, by its name."""
        return dict(zip(self.dims, self.values.shape, strict=True))

    def renamed(self, names: Mapping[str, str]) -> LabelledArray:
        """Return it with other names of some dimensions and coordinates."""
        coords = {
            names.get(name, name): (tuple(names.get(dim, dim) for dim in dims), values)
            for name, (dims, values) in self.coords.items()
        }
        return replace(self, dims=tuple(names.get(dim, dim) for dim in self.dims), coords=coords)

    def at_steps(self, indices: Sequence[int | None]) -> LabelledArray:
        """Return it with these numbers along its first dimension, the step; without it, where None is the only one."""
        if list(indices) == [None]:  # outside of the steps
            return replace(self, dims=self.dims[1:], values=self.values[0])
        return replace(self, coords={**self.coords, **along("step", indices)})


def along(dim: str, values: Iterable[Any]) -> dict[str, Coordinate]:
    """Return the coordinate of a dimension.

    >>> along("step", range(3))
    {'step': (('step',), array([0, 1, 2]))}
    """
    return {dim: ((dim,), np.array(list(values)))}


def share_dimensions(arrays: Iterable[LabelledArray]) -> Iterator[LabelledArray]:
    """Give arrays whose dimensions have the same name and differ in size or coordinates dimensions of their own.

    The first keeps the name; others get the number of the first place where they fit: ``step``, ``step_2``, ... A
    coordinate of several dimensions belongs to the last of them, and gets the same number.

    >>> first, other = (LabelledArray("a", ("step",), np.zeros(n), along("step", range(n))) for n in (3, 2))
    >>> [array.dims for array in share_dimensions([first, other, first])]
    [('step',), ('step_2',), ('step',)]
    """
    taken: dict[str, tuple[int, dict[str, Coordinate]]] = {}
    for array in arrays:
        names: dict[str, str] = {}
        for dim, size in array.sizes.items():
            own = {
                name: (tuple(names[other] for other in dims[:-1]), values)
                for name, (dims, values) in array.coords.items()
                if dims[-1] == dim
            }
            number, found = 1, dim
            while found in taken and not (taken[found][0] == size and _same(taken[found][1], own)):
                number += 1
                found = f"{dim}_{number}"
            taken.setdefault(found, (size, own))
            names |= {name: name + found.removeprefix(dim) for name in (dim, *own)}
        yield array.renamed(names)


def as_numpy(x: Shaped[Tensor, ...]) -> Array:
    """Return a tensor as an array, without a copy if it is in CPU memory; bfloat16, which numpy lacks, as float32."""
    there = x.detach().cpu()
    found: Array = (there.float() if there.dtype == torch.bfloat16 else there).numpy()
    return found


def _same(some: Mapping[str, Coordinate], others: Mapping[str, Coordinate]) -> bool:
    if some.keys() != others.keys():
        return False
    return all(some[k][0] == others[k][0] and np.array_equal(some[k][1], others[k][1]) for k in some)
