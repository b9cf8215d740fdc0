"""What the denoiser is told in a call, where limited hooks tell some of its rows something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sdprobe.run import Step


@runtime_checkable
class Retelling(Protocol):
    """A hook that tells the denoiser something else in some steps, for some rows: one of those that a run records."""

    def retold(self, step: Step) -> tuple[Sequence[int], Mapping[str, Tensor]]:
        """Which rows of a call, and what they are told instead, by the names of the denoiser's arguments."""


def retold(told: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """The denoiser's arguments for the rows of a step, as the run's hooks leave them, one after the other."""
    found = dict(told)
    for _, hook in step.run.records:
        if isinstance(hook, Retelling):
            rows, instead = hook.retold(step)
            found = _with(found, torch.tensor(rows), instead) if rows else found
    return found


def _with(told: Mapping[str, Any], rows: Tensor, instead: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments, and those that stand in a dictionary among them, with other entries at some rows."""
    found = dict(told)
    for name, value in told.items():
        if isinstance(value, dict):
            found[name] = _with(value, rows, instead)
        elif name in instead:
            found[name] = value.index_copy(0, rows.to(value.device), instead[name].to(value))
    return found
