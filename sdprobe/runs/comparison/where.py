"""`Where`: whose attention is compared, and of which step and site."""

from __future__ import annotations

from typing import NamedTuple

from sdprobe.core.grid import Grid, said_grid


class Where(NamedTuple):
    """Whose attention it is; None for the step of a sum over steps, and for the layer of one over layers.

    >>> Where("cond", 3, None, (16, 16)).site
    'all of grid 16×16'
    """

    role: str
    step: int | None
    layer: str | None
    grid: Grid | None

    @property
    def site(self) -> str:
        """The module's name, or the grid of a sum over layers."""
        return self.layer or f"all of grid {'not known' if self.grid is None else said_grid(self.grid)}"
