"""Where a run stands: what the loop needs to go on from the middle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class State:
    """Where a run stands before a step: all that the loop needs to go on from there.

    Args:
        index: the step's number.
        latents: x_t as it enters the step, ``[images, channels, h, w]``.
        scheduler: a copy of the run's scheduler, with what it remembers of the steps before.
        generator: a copy of what the noise is drawn from: one generator, or one per image.
    """

    index: int
    latents: Shaped[Tensor, "images channels h w"] = field(repr=False)
    scheduler: Any = field(repr=False)
    generator: Any = field(repr=False)
