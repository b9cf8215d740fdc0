"""`State`: what the loop needs to continue a run from one of its steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class State:
    """The state of a run before a step: everything the loop needs to continue from there.

    Args:
        index: the number of the step.
        latents: x_t as it enters the step, ``[images, channels, h, w]``.
        scheduler: a copy of the run's scheduler, with its memory of the earlier steps.
        generator: a copy of the source of noise: one generator, or one per image.
        levels: the noise level of every step of the scheduler, as the run has read them.
    """

    index: int
    latents: Shaped[Tensor, "images channels *size"] = field(repr=False)
    scheduler: Any = field(repr=False)
    generator: Any = field(repr=False)
    levels: Any = field(default=(), repr=False)

    def on(self, device: torch.device) -> State:
        """Return the state with its latents on a device."""
        return replace(self, latents=self.latents.to(device))
