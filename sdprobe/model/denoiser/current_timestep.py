"""`current_timestep`: what a pipeline says of the step it is in, where a cache of its denoiser reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

NAME = "_current_timestep"


@contextmanager
def current_timestep(pipe: Any, timestep: Tensor) -> Iterator[None]:
    """While this is open, a pipeline's ``current_timestep`` is this one, as in its own loop.

    Caches are configured with a function that reads it: ``current_timestep_callback=lambda: pipe.current_timestep``.

    Args:
        pipe: the pipeline whose denoiser is called; nothing is done if its class has no ``current_timestep``.
        timestep: the scheduler's number of the step.
    """
    if not hasattr(type(pipe), "current_timestep"):
        yield
        return
    before = {NAME: vars(pipe)[NAME]} if NAME in vars(pipe) else {}
    setattr(pipe, NAME, timestep)
    try:
        yield
    finally:
        vars(pipe).pop(NAME, None)
        vars(pipe).update(before)
