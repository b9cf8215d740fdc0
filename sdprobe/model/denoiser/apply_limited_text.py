"""`apply_limited_text`: the arguments of a network with the changes of limited transforms of the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.limits.limited_text_edit import LimitedTextEdit
from sdprobe.core.step import Step
from sdprobe.model.text.conditioning import to_length


def apply_limited_text(told: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """Return a network's arguments for the rows of a step, changed by the run's limited transforms of the text."""
    found = dict(told)
    for _, hook in step.run.records:
        if isinstance(hook, LimitedTextEdit):
            rows, instead = hook.replaced_arguments(step)
            found = _with(found, torch.tensor(rows), instead) if rows else found
    return found


def limit_text_beside(told: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """Return the arguments of a network beside the denoiser, such as ControlNet, changed as those of the denoiser are.

    Some ControlNets are told zeros in the place of what is said of the whole prompt, whatever it is: these stay.
    """
    found = apply_limited_text(told, step)
    changed = (name for name, was in told.items() if isinstance(was, Tensor) and found[name] is not was)
    return found | {name: told[name] for name in changed if not told[name].any()}


def _with(told: Mapping[str, Any], rows: Tensor, instead: Mapping[str, Tensor]) -> dict[str, Any]:
    """Replace entries of some rows in the arguments, also in a dictionary among them."""
    found = dict(told)
    for name, value in told.items():
        if isinstance(value, dict):
            found[name] = _with(value, rows, instead)
        elif name in instead and value is not None:
            new = instead[name].to(value)
            fitting = to_length(new, value.shape[1]) if value.ndim > 1 and new.shape[1] != value.shape[1] else new
            found[name] = value.index_copy(0, rows.to(value.device, non_blocking=True), fitting)
    return found
