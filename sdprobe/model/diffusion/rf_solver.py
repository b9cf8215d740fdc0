"""`RFSolverScheduler` and `RFSolverInverseScheduler`: a flow's ODE in steps of second order, in both directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdprobe.model.diffusion.flow_inversion import FlowSolver


class RFSolverScheduler(FlowSolver):
    """RF-Solver of second order, from noise to picture: two denoiser calls per step.

    The step is a Taylor expansion, x + h v + h²/2 v′, where v′ is the difference quotient of the velocities at the
    beginning and in the middle of the step: v′ = (v_mid - v) / (h/2). So it is x + h v_mid, the explicit midpoint
    method.

    Source: Wang et al. 2024, "Taming Rectified Flow for Inversion and Editing", section 3.2 and algorithm 1.
    """

    order = 2
    start: Tensor

    def of_calls(self, levels: Tensor) -> Tensor:
        middle = (levels[:-1] + levels[1:]) / 2
        return torch.cat([torch.stack([levels[:-1], middle], dim=1).flatten(), levels[-1:]])

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        i = self.next_call()
        half = i % 2
        self.start = self.start if half else sample
        return self.moved(self.start, model_output, self.sigmas[i + 1] - self.sigmas[i - half], return_dict)


class RFSolverInverseScheduler(RFSolverScheduler):
    """RF-Solver of second order, from picture to noise."""

    def of_calls(self, levels: Tensor) -> Tensor:
        return super().of_calls(levels.flip(0))
