"""`set_and_read`: set a scheduler to the steps of a run, and read their numbers without waiting for a GPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sdprobe.model.diffusion.noise_levels import StepLevels, step_levels

CPU = torch.device("cpu")


def set_and_read(scheduler: Any, set_on: Callable[[torch.device], object], device: torch.device) -> StepLevels:
    """Set a scheduler's timesteps on a device, and return the levels of its steps.

    It is set on the CPU first, where its tables can be read at once, and then again on the device.

    Args:
        scheduler: the scheduler.
        set_on: sets its timesteps, with tables on the device given.
        device: the device of the run.
    """
    set_on(CPU)
    levels = step_levels(scheduler)
    if device != CPU:
        set_on(device)
    return levels


def call_and_read(
    scheduler: Any, set_timesteps: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> StepLevels:
    """Make a call of a scheduler's ``set_timesteps``, with the arguments given, and return the levels of its steps."""
    given = inspect.signature(set_timesteps).bind(*args, **kwargs)
    device = given.arguments.pop("device", kwargs.get("device"))
    if device is None:  # on the CPU, which is the default
        set_timesteps(*args, **kwargs)
        return step_levels(scheduler)

    def set_on(device: torch.device) -> None:
        set_timesteps(*given.args, **{**given.kwargs, "device": device})

    return set_and_read(scheduler, set_on, torch.device(device))
