"""`TransformerModel`: base class of the families whose denoiser is a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import retrieve_timesteps

from sdprobe.core.run import Settings
from sdprobe.model.base import Model
from sdprobe.model.denoiser.token_layout import Grid


class TransformerModel(Model):
    """A family with a transformer: the image is cut into patches, and has one size in the whole network."""

    network = "transformer"

    @property
    def patch(self) -> int:
        """The side of the square of latents that is one token."""
        return int(self.denoiser.config.patch_size)

    @property
    def multiple(self) -> int:
        return self.scale_factor * self.patch

    def left_out(self, steps: int, strength: float) -> int:
        return int(max(steps - steps * strength, 0))  # these pipelines round differently

    def grids(self, settings: Settings) -> dict[int, Grid]:
        h, w = (side // self.patch for side in self.latent_size(settings))
        return {h * w: (h, w)}

    def grid_at(self, site: str, settings: Settings) -> Grid | None:
        (grid,) = self.grids(settings).values()
        return grid

    def shift(self, scheduler: Any, settings: Settings, greatest: float) -> float:
        """Return the shift of a flow's noise levels for the number of image tokens.

        Source: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", §5.3.2.
        """
        (places,) = self.grids(settings)
        told = scheduler.config.get
        few, many = told("base_image_seq_len", 256), told("max_image_seq_len", 4096)
        low, high = told("base_shift", 0.5), told("max_shift", greatest)
        slope = (high - low) / (many - few)
        return float(places * slope + (low - slope * few))

    def sigmas(self, steps: int) -> Sequence[float] | np.ndarray:
        """Return evenly spaced noise levels of a flow, as the pipeline makes them."""
        return np.linspace(1.0, 1 / steps, steps)

    def set_sigmas(self, scheduler: Any, settings: Settings, device: torch.device, mu: float) -> None:
        """Set a scheduler to evenly spaced noise levels of a flow, shifted by ``mu`` if it takes a shift."""
        own = scheduler.config.get("use_flow_sigmas", False)
        asked = {"sigmas": None if own else self.sigmas(settings.steps), "mu": mu}
        taken = signature(scheduler.set_timesteps).parameters  # Heun's scheduler has other arguments
        known = {name: value for name, value in asked.items() if name in taken}
        retrieve_timesteps(scheduler, settings.steps, device, **known)
