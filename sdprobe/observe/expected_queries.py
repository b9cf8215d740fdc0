"""`ExpectedQueries`: what a recording of queries will hold, as arithmetic, before the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from sdprobe.core.grid import Grid, said_grid
from sdprobe.core.site import Site
from sdprobe.observe.memory_budget import counted, written


class QuerySize(NamedTuple):
    """How many numbers the queries of one call are."""

    images: int
    heads: int
    grid: Grid
    width: int

    @property
    def numbers(self) -> int:
        """Images × heads × positions × width."""
        return self.images * self.heads * prod(self.grid) * self.width

    def __str__(self) -> str:
        images, heads = counted(self.images, "image"), counted(self.heads, "head")
        positions = f"{counted(prod(self.grid), 'position')} ({said_grid(self.grid)})"
        return f"{images} × {heads} × {positions} × {counted(self.width, 'number')}"


@dataclass(frozen=True)
class ExpectedQueries:
    """The queries that a run will record.

    Args:
        calls: how many calls there are of each size.
        itemsize: the bytes of a number.
    """

    calls: Mapping[QuerySize, int]
    itemsize: int

    @property
    def held_bytes(self) -> int:
        """The bytes held after the run."""
        return self.itemsize * sum(size.numbers * times for size, times in self.calls.items())

    def arithmetic(self) -> str:
        """Write how many bytes are held, factor by factor, a line for every size."""
        return "\n".join(
            f"  {counted(times, 'call')} × {size} × {self.itemsize} bytes = "
            f"{written(times * size.numbers * self.itemsize)}"
            for size, times in self.calls.items()
        )


def expected_queries(
    sites: Sequence[Site], modules: Mapping[str, Any], images: int, largest: Grid, itemsize: int
) -> ExpectedQueries:
    """Return what calls at these sites will record.

    Args:
        sites: each call's site.
        modules: the denoiser's modules by name.
        images: the number of images.
        largest: the largest grid, which stands for one that does not follow from a site's name.
        itemsize: the bytes of a number.
    """
    widths = {site.name: int(modules[site.name].inner_dim) // site.heads for site in sites}
    sizes = (QuerySize(images, site.heads, site.grid or largest, widths[site.name]) for site in sites)
    return ExpectedQueries(Counter(sizes), itemsize)
