"""Latents on their way out of a pipeline, to hooks, and back into it.

The pipeline keeps its latents in a variable of its own, which nobody else can write to. So latents that a hook has
changed are put in their place wherever the pipeline hands its own on: to the denoiser, to ControlNet, to the scheduler.
"""

from __future__ import annotations

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
    """

    def __init__(self, run_model: Model, run: Run) -> None:
        self.run_model, self.run = run_model, run
        self.instead: Latents | None = None

    def show(self, x: Tensor) -> Latents:
        """Latents of the pipeline as hooks are shown them: a picture."""
        return self.run_model.unpacked(x, *self.run_model.latent_shape(self.run.settings))

    def hand_back(self, x: Latents, like: Tensor) -> Tensor:
        """Latents of a hook as the pipeline goes on with them, in the form of those that they replace."""
        return self.run_model.packed(x).to(like.dtype)

    def replace_in(self, rows: Tensor) -> Shaped[Tensor, "rows ..."]:
        """Rows of the pipeline's latents with those that stand for them, where any do."""
        if self.instead is None:
            return rows
        return torch.cat([self.hand_back(self.instead, rows)] * (len(rows) // len(self.instead)))
