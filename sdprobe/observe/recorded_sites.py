"""What hooks of attention are told to record: which rows, which grids, and how many bytes they may hold."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from sdprobe.core.run import Role, Run

Grid = tuple[int, int]
Rows = Role | Literal["both"]


def checked_rows(rows: Any) -> Rows:
    """Return which rows are recorded. Raises ValueError for anything but ``"cond"``, ``"uncond"`` and ``"both"``."""
    if rows not in ("cond", "uncond", "both"):
        raise ValueError(f"rows is 'cond', 'uncond' or 'both', not {rows!r}")
    return rows  # type: ignore[no-any-return]


def roles_of_rows(rows: Rows, run: Run) -> tuple[Role, ...]:
    """Return the roles of the rows recorded in a run. Raises ValueError for unconditional rows where it has none."""
    if rows != "cond" and "uncond" not in run.roles:
        raise ValueError(f"rows={rows!r}, but there are no unconditional rows at this guidance scale")
    return ("cond", "uncond") if rows == "both" else (rows,)


def checked_budget(budget: Any) -> int | float | None:
    """Return how many bytes may be held, None for the usual part. Raises ValueError for what is no number of bytes."""
    if budget is not None and (isinstance(budget, (bool, str)) or not budget > 0):
        raise ValueError(f"budget is a number of bytes, such as 2e9, or None, not {budget!r}")
    return budget


def as_grids(given: Collection[int | Grid] | None) -> list[Grid] | None:
    """Return grids as pairs; a number is a square one, and None is every grid.

    >>> as_grids([8, (8, 12)])
    [(8, 8), (8, 12)]
    """
    if given is None:
        return None
    return [(own, own) if isinstance(own, int) else tuple(own) for own in given]  # type: ignore[misc]


def possible_grids(run: Run, asked: list[Grid] | None) -> list[Grid]:
    """Return the grids that can be recorded in a run, of those asked for. Raises ValueError if there are none."""
    every = list(run.model.grids(run.settings).values())
    if not (found := [grid for grid in every if asked is None or grid in asked]):
        raise ValueError(f"no site can have a grid of {asked}; at this size they are among {every}")
    return found
