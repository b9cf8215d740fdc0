"""Where the picture and the text stand on the axes of an attention call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

Grid = tuple[int, int]


class Parts(NamedTuple):
    """Of one call: the picture's grid, and the slices of picture and text; None where there is no such part."""

    grid: Grid | None
    image: slice
    text: slice | None


@dataclass(frozen=True)
class Layout:
    """How a run's denoiser lays out its tokens.

    Args:
        grids: ``(h, w)`` by number of picture tokens, for every size the picture has inside the network.
        text_first: whether the text stands before the picture where both share an axis.
    """

    grids: Mapping[int, Grid] = field(default_factory=dict)
    text_first: bool = False

    def grid_of(self, x: Tensor) -> Grid | None:
        """The grid of a module's output, if it is one: ``[rows, channels, h, w]``, or ``[rows, positions, width]``."""
        if x.ndim == 4:
            return int(x.shape[-2]), int(x.shape[-1])
        return self.grids.get(x.shape[1]) if x.ndim == 3 else None

    def of(self, kind: str, queries: int, keys: int) -> Parts:
        """The parts of a call of this kind with so many queries and keys."""
        if kind != "joint":
            return Parts(self.grids.get(queries), slice(0, queries), slice(0, keys) if kind == "cross" else None)
        places, grid = next(iter(self.grids.items()))  # a transformer has one size throughout
        texts = keys - places
        if self.text_first:
            return Parts(grid, slice(texts, keys), slice(0, texts))
        return Parts(grid, slice(0, places), slice(places, keys))
