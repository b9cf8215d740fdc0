"""`kept_rows`, `without_left_out`: a step and its conditioning without the rows that hooks have left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from sdprobe.core.run import Row
from sdprobe.core.step import Step
from sdprobe.model.text.conditioning import Conditioning


def kept_rows(step: Step, rows: tuple[Row, ...], has_caches: bool) -> list[int]:
    """Return the positions of the rows that a call of the denoiser keeps.

    Args:
        step: the step.
        rows: the rows of the call.
        has_caches: whether the denoiser has a cache of diffusers.

    Raises ValueError where none is kept, and where some are left out and a cache holds all rows of earlier steps.
    """
    kept = step.run.control.rows_kept(step.index, rows)
    if not kept:
        roles = ", ".join(dict.fromkeys(row.role for row in rows))
        raise ValueError(
            f"every row of a call of the denoiser was left out of step {step.index} ({roles}): this pipeline calls it "
            f"for each role by itself, and a call cannot be left out"
        )
    if has_caches and len(kept) < len(rows):
        raise ValueError(
            f"rows were left out of step {step.index}, but the denoiser has a cache of diffusers, which holds all rows "
            f"of earlier steps: disable it (disable_cache), or keep the rows"
        )
    return kept


def without_left_out(
    step: Step,
    conditioning: Conditioning,
    has_caches: bool,
    predicting: Callable[[Conditioning], Callable[..., Tensor]],
) -> tuple[Step, Conditioning]:
    """Return a step and its conditioning without the rows that hooks have left out; the same ones where there are none.

    Args:
        step: the step, with all of its rows.
        conditioning: the conditioning of these rows.
        has_caches: whether the denoiser has a cache of diffusers.
        predicting: returns the function behind `Step.predict` for a conditioning.

    Raises ValueError as `kept_rows` does.
    """
    if step.run.model.separate_calls:
        for role in step.roles:
            kept_rows(step, tuple(row for row in step.rows if row.role == role), has_caches)
    kept = kept_rows(step, step.rows, has_caches)
    if len(kept) == len(step.rows):
        return step, conditioning
    rows = tuple(step.rows[k] for k in kept)
    told = replace(conditioning.of(kept), groups=len(rows) // step.run.settings.images)
    return replace(step, rows=rows, to_prediction=predicting(told)), told
