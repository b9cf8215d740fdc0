"""`rows_of_pass`, `rows_by_themselves`: which rows of a step a pass of the denoiser was computed for."""

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
    if (own := rows_by_themselves(rows, count, call)) is not None:
        return own
    if 2 * count == len(rows):
        return rows[count:]
    raise ValueError(f"this step has {len(rows)} rows, and a module of the denoiser was called for {count}")


def rows_by_themselves(rows: tuple[Row, ...], count: int, call: int) -> tuple[Row, ...] | None:
    """Return the rows of a call within attention that is perturbed: first all others, then the perturbed ones.

    Args:
        rows: the rows of the step.
        count: how many entries the call's tensors have along the batch.
        call: which call it is, counted from 0.

    Returns None for a call of another number of rows, and in a step without perturbed rows.
    """
    parts = [tuple(row for row in rows if (row.role == "perturbed") == perturbed) for perturbed in (False, True)]
    return parts[call] if call < 2 and parts[1] and count == len(parts[call]) else None
