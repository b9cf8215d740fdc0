"""Copies of what changes from step to step: the scheduler's memory and the generators' state."""

from __future__ import annotations

import copy
from typing import Any

import torch


def copied_scheduler(scheduler: Any) -> Any:
    """A scheduler that remembers the same, and will step alike."""
    # A Brownian path does not change by being asked, and its cache does not survive a copy.
    path = getattr(scheduler, "noise_sampler", None)
    copied = copy.deepcopy(scheduler, {id(path): path})
    for listened in ("step", "scale_model_input"):  # of a pipeline that is attached to: nobody listens to the copy
        vars(copied).pop(listened, None)
    return copied


def copied_generator(generator: Any) -> Any:
    """A generator, or several, that will draw the same."""
    if isinstance(generator, torch.Generator):
        return generator.clone_state()
    return [one.clone_state() for one in generator]
