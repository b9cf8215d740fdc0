"""`SumsByGrid`: what a hook added up for each grid and word, as it is read from a saved run."""

from __future__ import annotations

from math import prod
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sdprobe.core.grid import Grid, read_grid
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.plain_values import from_plain
from sdprobe.core.short_repr import said, short_repr
from sdprobe.core.torch_names import FLOATING
from sdprobe.core.written_values import MOST_ENTRIES, count, listed, whole


class SumsByGrid:
    """The attributes of a hook that adds up numbers of words by grid, each checked as it is read.

    >>> import torch
    >>> from sdprobe.core.plain_values import to_plain
    >>> values = {"names": [["red", "star"]], "norms": to_plain({(2, 2): torch.ones(1, 2, 4)}, tensors := {}, "norms")}
    >>> read = SumsByGrid(HookRecords(values, tensors), images=1)
    >>> read.names, {grid: x.shape for grid, x in read.sums("norms").items()}
    ([['red', 'star']], {(2, 2): torch.Size([1, 2, 4])})

    Args:
        records: as `KeepsRecords.records` writes them.
        images: how many images the run has.

    Attributes:
        names: the words of each image.

    Raises ValueError, as its methods do, for anything else than was written.
    """

    def __init__(self, records: HookRecords, images: int) -> None:
        self._records = records
        self.names = [
            [own if isinstance(own, str) else whole(own) for own in listed(words)]
            for words in listed(records.values["names"])
        ]
        if len(self.names) != images:
            raise ValueError(f"words of {len(self.names)} images, of a run of {images}")

    def sums(self, name: str) -> dict[Grid, Float[Tensor, "images words places"]]:
        """Return the sums of an attribute."""
        return {grid: self._sized(x, name, prod(grid)) for grid, x in self._by_grid(name).items()}

    def counts(self, name: str) -> dict[Grid, int]:
        """Return the numbers of calls of an attribute."""
        return {grid: count(calls, MOST_ENTRIES) for grid, calls in self._by_grid(name).items()}

    def of_words(self, name: str) -> Float[Tensor, "images words"]:
        """Return an attribute with a number for each word."""
        return self._sized(from_plain(self._records.values[name], self._records.tensors), name)

    def _by_grid(self, name: str) -> dict[Grid, Any]:
        found = from_plain(self._records.values[name], self._records.tensors)
        if not isinstance(found, dict):
            raise ValueError(f"{name} is {short_repr(found)} where values by grid are needed")
        return {read_grid(list(grid) if isinstance(grid, tuple) else grid): own for grid, own in found.items()}

    def _sized(self, x: Any, name: str, *places: int) -> Tensor:
        size = [len(self.names), max(map(len, self.names), default=0), *places]
        if not isinstance(x, Tensor) or list(x.shape) != size or x.dtype not in FLOATING:
            found = said(x) if isinstance(x, Tensor) else short_repr(x)
            raise ValueError(f"{name} has {found} where numbers {size} are needed")
        return x
