"""Copies of a scheduler's state and of generators."""

from __future__ import annotations

import copy
from typing import Any

import torch


def copied_scheduler(scheduler: Any) -> Any:
    """Return a copy of a scheduler, with its state."""
    # A Brownian path does not change when it is evaluated, and its cache cannot be copied.
    path = getattr(scheduler, "noise_sampler", None)
    copied = copy.deepcopy(scheduler, {id(path): path})
    # Removes the wrappers of an attached pipeline from the copy.
    for listened in ("set_timesteps", "step", "scale_model_input"):
        vars(copied).pop(listened, None)
    return copied


def copied_generator(generator: Any) -> Any:
    """Return a copy of a generator, or of several, with the same state."""
    if isinstance(generator, torch.Generator):
        return generator.clone_state()
    return [one.clone_state() for one in generator]


def copied_state(scheduler: Any, generator: Any) -> tuple[Any, Any]:
    """Return copies of the scheduler and of the generator of a run."""
    return copied_scheduler(scheduler), copied_generator(generator)
