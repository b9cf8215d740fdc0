"""What hooks of attention are told to record: which rows, and how many bytes they may hold."""

from __future__ import annotations

from typing import Any, Literal

from sdprobe.core.rows import UNLABELLED
from sdprobe.core.run import Role, Run

Rows = Role | Literal["both"]


def checked_rows(rows: Any) -> Rows:
    """Return which rows are recorded. Raises ValueError for anything but ``"cond"``, ``"uncond"`` and ``"both"``."""
    if rows not in ("cond", "uncond", "both"):
        raise ValueError(f"rows is 'cond', 'uncond' or 'both', not {rows!r}")
    return rows  # type: ignore[no-any-return]


def roles_of_rows(rows: Rows, run: Run) -> tuple[Role, ...]:
    """Return the roles of the rows recorded in a run. Raises ValueError for unconditional rows where it has none."""
    if UNLABELLED in run.roles:
        raise ValueError(
            f"rows={rows!r}, and no family knows this pipeline: which of its rows are which, and where the words of a "
            f"prompt stand among its tokens, is not known. The first can be said by sdprobe.attach(pipe, hooks, "
            f"rows=...); the probabilities of all rows are at the point attention, as in AttentionRecorder(rows=None)"
        )
    if rows != "cond" and "uncond" not in run.roles:
        raise ValueError(f"rows={rows!r}, but there are no unconditional rows at this guidance scale")
    return ("cond", "uncond") if rows == "both" else (rows,)


def checked_budget(budget: Any) -> int | float | None:
    """Return how many bytes may be held, None for the usual part. Raises ValueError for what is no number of bytes."""
    if budget is not None and (isinstance(budget, (bool, str)) or not budget > 0):
        raise ValueError(f"budget is a number of bytes, such as 2e9, or None, not {budget!r}")
    return budget
