"""`rows_of_pass`: which rows of a step a pass of the denoiser was computed for."""

from __future__ import annotations

from sdprobe.core.run import Row


def rows_of_pass(rows: tuple[Row, ...], count: int) -> tuple[Row, ...]:
    """Return the rows of a step for which a module of its denoiser was called.

    FasterCache leaves the unconditional rows, the first half, out of some steps, and makes up what the denoiser would
    say of them from earlier steps.

    Args:
        rows: the rows of the step.
        count: how many entries the module's tensors have along the batch.

    Raises:
        ValueError: for a number that is neither that of all rows nor half of it.
    """
    if count == len(rows):
        return rows
    if 2 * count == len(rows):
        return rows[count:]
    raise ValueError(f"this step has {len(rows)} rows, and a module of the denoiser was called for {count}")
