"""`FlowInverseScheduler` and `CorrectedFlowInverseScheduler`: Euler's method on a flow, from picture to noise."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor


class FlowSolver(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Base class: a solver of the flow's ODE at the noise levels of the stock scheduler, in either direction.

    A step may have several calls of the denoiser. The tables `sigmas` and `timesteps` have an entry for each call.
    """

    sigmas: Tensor
    timesteps: Tensor
    _step_index: int | None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        super().set_timesteps(num_inference_steps, "cpu", sigmas, mu, timesteps)
        table = self.of_calls(self.sigmas)
        self.sigmas = table.to(device, non_blocking=True)
        self.timesteps = (table[:-1] * self.config.num_train_timesteps).to(device, non_blocking=True)

    def of_calls(self, levels: Tensor) -> Tensor:
        """Return σ at each call, and at the end, from the levels of the stock scheduler, the noisiest first."""
        raise NotImplementedError

    def next_call(self) -> int:
        """Return the number of this call, and count it."""
        number = (self.begin_index or 0) if self._step_index is None else self._step_index
        self._step_index = number + 1
        return number

    def moved(self, sample: Tensor, velocity: Tensor, change: Tensor, return_dict: bool) -> Any:
        """Return latents that were moved along a velocity, for a change of σ; computed as the stock scheduler does."""
        found = (sample.to(torch.float32) + change * velocity).to(velocity.dtype)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=found) if return_dict else (found,)


class FlowInverseScheduler(FlowSolver):
    """Euler's method from picture to noise, with one denoiser call per step, at the level that the step leaves.

    Sampling goes from level t down to s along the velocity at t. In the other direction, this is known only after the
    step; the velocity at s is used instead, and the errors add up.
    """

    def of_calls(self, levels: Tensor) -> Tensor:
        return levels.flip(0)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        i = self.next_call()
        return self.moved(sample, model_output, self.sigmas[i + 1] - self.sigmas[i], return_dict)


class CorrectedFlowInverseScheduler(FlowSolver):
    """Euler's method from picture to noise, with two denoiser calls per step: the second at the level reached.

    The step is repeated from the same latents with the velocity at the level that it reached: one iteration of the
    fixed-point iteration whose limit inverts Euler's step exactly, as for DDIM (`CorrectedDDIMInverseScheduler`).
    """

    order = 2
    start: Tensor

    def of_calls(self, levels: Tensor) -> Tensor:
        up = levels.flip(0)
        return torch.cat([torch.stack([up[:-1], up[1:]], dim=1).flatten(), up[-1:]])

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        i = self.next_call()
        half = i % 2
        self.start = self.start if half else sample
        return self.moved(self.start, model_output, self.sigmas[i - half + 1] - self.sigmas[i - half], return_dict)
