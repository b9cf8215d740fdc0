"""`rows_of_pass`: which rows of a step a pass of the denoiser was computed for."""

from __future__ import annotations

from sdprobe.core.run import Row


def rows_of_pass(rows: tuple[Row, ...], count: int, call: int = 0) -> tuple[Row, ...]:
    """Return the rows of a step for which a module of its denoiser was called.

    Where perturbed-attention guidance perturbs a module (Ahn et al. 2024), its attention to the perturbed rows is
    computed by itself after that to the others, or not at all.

    FasterCache leaves the unconditional rows, the first half, out of some steps, and makes up what the denoiser would
    say of them from earlier steps.

    Args:
        rows: the rows of the step.
        count: how many entries the module's tensors have along the batch.
        call: which call of the module's attention it is, counted from 0.

    Raises:
        ValueError: for a number that is neither that of all rows nor half of it.
    """
    if count == len(rows):
        return rows
    parts = [tuple(row for row in rows if (row.role == "perturbed") == perturbed) for perturbed in (False, True)]
    if call < 2 and parts[1] and count == len(parts[call]):
        return parts[call]
    if 2 * count == len(rows):
        return rows[count:]
    raise ValueError(f"this step has {len(rows)} rows, and a module of the denoiser was called for {count}")
