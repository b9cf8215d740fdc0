"""DDIM from picture to noise, such that DDIM finds the way back."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers import DDIMInverseScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


class CorrectedDDIMInverseScheduler(DDIMInverseScheduler):  # type: ignore[misc]
    """DDIM inversion in steps of two calls: one at the level left, and a corrected one at the level reached.

    A step of DDIM from level t down to s is told the noise at t. Upwards, that is known only once t is reached; the
    noise at s takes its place (Song et al. 2020, section 4.3), and what is lost adds up. So the step is made again,
    from the same place, with the noise at the level it has reached: one turn of the fixed-point iteration whose limit
    retraces DDIM exactly (Pan et al. 2023, "Effective Real Image Editing with Accelerated Iterative Diffusion
    Inversion", section 3.2).
    """

    timesteps: Tensor
    alpha_bars: Tensor
    start: Tensor
    calls: int

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        reached = self.timesteps
        left = reached - self.config.num_train_timesteps // num_inference_steps
        bars = self.alphas_cumprod.to(reached.device)
        first = torch.where(left < 0, self.initial_alpha_cumprod.to(bars), bars[left.clamp(min=0)])
        # ᾱ at each call, and in the end
        self.alpha_bars = torch.cat([torch.stack([first, bars[reached]], dim=1).flatten(), bars[reached[-1:]]])
        self.timesteps = torch.stack([left.clamp(min=0), reached], dim=1).flatten()
        self.calls = 0

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        half = self.calls % 2
        self.start = self.start if half else sample
        now, left, reached = (self.alpha_bars[i] for i in (self.calls, self.calls - half, self.calls - half + 1))
        noise = self._noise(model_output, sample, now)
        x0 = (self.start - (1 - left) ** 0.5 * noise) / left**0.5
        self.calls += 1
        moved = reached**0.5 * x0 + (1 - reached) ** 0.5 * noise
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
