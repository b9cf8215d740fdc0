"""`PlainDDIMInverseScheduler` and `CorrectedDDIMInverseScheduler`: DDIM from picture to noise."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers import DDIMInverseScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


class PlainDDIMInverseScheduler(DDIMInverseScheduler):  # type: ignore[misc]
    """DDIM inversion with one denoiser call per step, at the level that the step leaves.

    A step of DDIM from level t down to s uses the noise predicted at t. In the other direction, this is known only
    after the step; the noise predicted at s is used instead (Song et al. 2020, section 4.3), and the errors add up.

    The class that it is derived from gives the denoiser the latents of level s with the timestep of level t; here, as
    in the paper, both are of level s.
    """

    timesteps: Tensor
    alpha_bars: Tensor
    reached: Tensor
    calls: int

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, "cpu")
        reached, bars = self.timesteps, self.alphas_cumprod.cpu()
        left = reached - self.config.num_train_timesteps // num_inference_steps
        first = torch.where(left < 0, self.initial_alpha_cumprod.to(bars), bars[left.clamp(min=0)])
        tables = self.of_calls(left.clamp(min=0), reached, first, bars[reached])
        self.timesteps, self.alpha_bars, self.reached = (table.to(device, non_blocking=True) for table in tables)
        self.calls = 0

    def of_calls(self, left: Tensor, reached: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the timestep of each call, ᾱ at each call and at the end, and ᾱ at the end of each step.

        Args:
            left: the timestep that each step leaves.
            reached: the timestep that each step reaches.
            before: ᾱ of the levels left.
            after: ᾱ of the levels reached.
        """
        return left, torch.cat([before, after[-1:]]), after

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        left, reached = self.alpha_bars[self.calls], self.reached[self.calls]
        self.calls += 1
        moved = _moved(sample, self._noise(model_output, sample, left), left, reached)
        return DDIMSchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def _noise(self, output: Tensor, sample: Tensor, alpha_bar: Tensor) -> Tensor:
        kind = self.config.prediction_type
        if kind == "epsilon":
            return output
        if kind == "v_prediction":
            return alpha_bar**0.5 * output + (1 - alpha_bar) ** 0.5 * sample
        if kind == "sample":
            return (sample - alpha_bar**0.5 * output) / (1 - alpha_bar).clamp(min=1e-6) ** 0.5
        raise ValueError(f"DDIM inversion knows epsilon, v_prediction and sample, not {kind!r}")


class CorrectedDDIMInverseScheduler(PlainDDIMInverseScheduler):
    """DDIM inversion with two denoiser calls per step: one at the present level, and a correction at the next level.

    After a plain step, the step is repeated from the same latents with the noise predicted at the level that it
    reached: one iteration of the fixed-point iteration whose limit inverts DDIM exactly (Pan et al. 2023, "Effective
    Real Image Editing with Accelerated Iterative Diffusion Inversion", section 3.2).

    The output of the second call is read with the latents that are given to `step`, those that the network had.

    A level without signal (zero terminal SNR) has noise alone, so that there the latents say nothing of predicted x0,
    and the output nothing of the noise: it is the noise that lies between predicted x0 and the latents left.
    """

    start: Tensor

    def of_calls(self, left: Tensor, reached: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        timesteps = torch.stack([left, reached], dim=1).flatten()
        return timesteps, torch.cat([torch.stack([before, after], dim=1).flatten(), after[-1:]]), after

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        half = self.calls % 2
        self.start = self.start if half else sample
        now, left, reached = (self.alpha_bars[i] for i in (self.calls, self.calls - half, self.calls - half + 1))
        self.calls += 1
        noise = self._noise(model_output, sample, now)
        if half:
            noise = torch.where(reached > 0, noise, self._noise_beside(model_output, left))
        moved = _moved(self.start, noise, left, reached)
        return DDIMSchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def _noise_beside(self, output: Tensor, left: Tensor) -> Tensor:
        """Return the noise of the latents left, beside what the network predicts at a level without signal."""
        x0 = -output if self.config.prediction_type == "v_prediction" else output
        return (self.start - left**0.5 * x0) / (1 - left).clamp(min=1e-6) ** 0.5


def _moved(sample: Tensor, noise: Tensor, left: Tensor, reached: Tensor) -> Tensor:
    """Return latents of another level, with the same predicted noise."""
    x0 = (sample - (1 - left) ** 0.5 * noise) / left**0.5
    return reached**0.5 * x0 + (1 - reached) ** 0.5 * noise
