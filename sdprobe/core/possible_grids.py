"""`as_grids` and `possible_grids`: the grids that hooks are given, and those that the sites of a run can have."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sdprobe.core.grid import Grid as Grid
from sdprobe.core.run import Run


def as_grids(given: Collection[int | Sequence[int]] | None) -> list[Grid] | None:
    """Return grids as tuples; a number is a square one, ``(t, h, w)`` that of a video, and None is every grid.

    >>> as_grids([8, (8, 12), (3, 8, 12)])
    [(8, 8), (8, 12), (3, 8, 12)]
    """
    if given is None:
        return None
    return [(own, own) if isinstance(own, int) else tuple(own) for own in given]


def possible_grids(run: Run, asked: list[Grid] | None) -> list[Grid]:
    """Return the grids that sites of a run can have, of those asked for. Raises ValueError if there are none."""
    every = list(run.model.grids(run.settings).values())
    if not (found := [grid for grid in every if asked is None or grid in asked]):
        raise ValueError(f"no site can have a grid of {asked}; at this size they are among {every}")
    return found
