"""Latents on their way out of a pipeline, to hooks, and back into it.

The pipeline keeps its latents in a variable of its own, which nobody else can write to. So latents that a hook has
changed are put in their place wherever the pipeline hands its own on: to the denoiser, to ControlNet, to the scheduler.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.model.base import Model
from sdprobe.model.pipeline_parts import Latents


class ReplacedLatents:
    """What stands for a pipeline's latents during one step.

    Args:
        run_model: the run's model.
        run: the run, whose size is that of the latents.

    Attributes:
        instead: the latents that stand for the pipeline's own, where a hook has changed them.
        held: the pipeline's own latents as they last came, if they did: its denoiser may be shown them rounded.
    """

    def __init__(self, run_model: Model, run: Run) -> None:
        self.run_model, self.run = run_model, run
        self.instead: Latents | None = None
        self.held: Tensor | None = None

    def show(self, x: Tensor) -> Latents:
        """Latents of the pipeline as hooks are shown them: a picture."""
        return self.run_model.unpacked(x, *self.run_model.latent_shape(self.run.settings))

    def hold(self, made: Any) -> None:
        """Hold the latents that a pipeline has made: they alone, or the first of what it returned."""
        self.held = made[0] if isinstance(made, tuple) else made if isinstance(made, Tensor) else None

    def unrounded(self, shown: Tensor) -> Tensor:
        """The pipeline's own latents of which its denoiser is shown these, in the type in which it holds them."""
        own = self.held
        if own is None or self.run_model.rounds_latents or own.dtype == shown.dtype or own.shape != shown.shape:
            return shown
        return own if torch.equal(own.to(shown), shown) else shown

    def hand_back(self, x: Latents, like: Tensor) -> Tensor:
        """Latents of a hook as the pipeline goes on with them, in the form of those that they replace."""
        return self.run_model.packed(x).to(like.dtype)

    def replace_in(self, rows: Tensor) -> Shaped[Tensor, "rows ..."]:
        """Rows of the pipeline's latents with those that stand for them, where any do."""
        if self.instead is None:
            return rows
        return self.hand_back(torch.cat([self.instead] * (len(rows) // len(self.instead))), rows)
