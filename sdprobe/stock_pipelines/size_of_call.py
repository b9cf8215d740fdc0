"""`fit_to_call`, `fit_to_size`: the size of a run, from what a pipeline shows its denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdprobe.core.run import Run
from sdprobe.model.base import Model


def fit_to_call(run_model: Model, run: Run, call: Mapping[str, Any]) -> bool:
    """Set a run's size, and the places of other pictures, to what a call of a network tells by its arguments.

    Returns whether that changed anything.
    """
    before, run_model.places_beside = run_model.places_beside, run_model.places_told(call)
    size = run_model.size_told(call)
    resized = size is not None and fit_to_size(run_model, run, *size)
    return resized or run_model.places_beside != before


def fit_to_size(run_model: Model, run: Run, *size: int) -> bool:
    """Set a run's size to that of latents of a size ``(h, w)``. Returns whether it had another."""
    if size == run_model.latent_shape(run.settings):
        return False
    run.settings = run_model.settings = run_model.settings_of_size(run.settings, *size)
    return True
