"""`CorrectedDDIMInverseScheduler`: DDIM inversion with a small reconstruction error."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers import DDIMInverseScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


class CorrectedDDIMInverseScheduler(DDIMInverseScheduler):  # type: ignore[misc]
    """DDIM inversion with two denoiser calls per step: one at the present level, and a correction at the next level.

    A step of DDIM from level t down to s uses the noise predicted at t. In the other direction, this is known only
    after the step; the noise predicted at s is used instead (Song et al. 2020, section 4.3), and the errors add up. So
    the step is repeated from the same latents with the noise predicted at the level that it reached: one iteration of
    the fixed-point iteration whose limit inverts DDIM exactly (Pan et al. 2023, "Effective Real Image Editing with
    Accelerated Iterative Diffusion Inversion", section 3.2).
    """

    timesteps: Tensor
    alpha_bars: Tensor
    start: Tensor
    calls: int

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, "cpu")
        reached, bars = self.timesteps, self.alphas_cumprod.cpu()
        left = reached - self.config.num_train_timesteps // num_inference_steps
        first = torch.where(left < 0, self.initial_alpha_cumprod.to(bars), bars[left.clamp(min=0)])
        # ᾱ at each call, and at the end
        alpha_bars = torch.cat([torch.stack([first, bars[reached]], dim=1).flatten(), bars[reached[-1:]]])
        timesteps = torch.stack([left.clamp(min=0), reached], dim=1).flatten()
        self.alpha_bars, self.timesteps = (table.to(device, non_blocking=True) for table in (alpha_bars, timesteps))
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
