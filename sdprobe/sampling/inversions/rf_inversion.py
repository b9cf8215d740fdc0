"""`RFInversion`: a flow that is steered to noise on the way up, and to the picture on the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdprobe.core.compose import Hook
from sdprobe.core.hook import Transform
from sdprobe.core.limits.only import only
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.model.diffusion.flow_inversion import FlowInverseScheduler
from sdprobe.model.diffusion.schedulers import flow_there_and_back
from sdprobe.model.fill_settings import Seed
from sdprobe.sampling.inversions.request import FoundNoise, Request
from sdprobe.transform.guidances.steer_to_picture import SteerToPicture


@dataclass(frozen=True)
class RFInversion:
    """RF-Inversion, for flows: the equation has a controller in each direction.

    To noise, the velocity v becomes v + gamma · (v_noise − v), where v_noise goes straight to noise drawn from a seed:
    what is found lies between the noise of plain inversion (gamma 0) and that noise (gamma 1), and is more like noise
    that the model knows. Back, `SteerToPicture` does the same with the picture in the first steps.

    Args:
        gamma: from 0 to 1, how much the way to noise is steered.
        eta: from 0 to 1, how much the way back is steered.
        until: the share of the steps back that are steered, from 0 to 1; 1 for reconstruction, less for edits.
        seed: the seed of the noise: one number, or one for each picture.

    Source: Rout et al. 2024, "Semantic Image Inversion and Editing using Rectified Stochastic Differential Equations",
    algorithms 1 and 2.
    """

    gamma: float = 0.5
    eta: float = 0.9
    until: float = 0.25
    seed: Seed = 0

    def __post_init__(self) -> None:
        for name in ("gamma", "eta", "until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} lies between 0 and 1, not at {getattr(self, name)}")

    def invert(self, request: Request) -> FoundNoise:
        up, down = flow_there_and_back(request.model.pipe, FlowInverseScheduler)
        noise = request.model.noise_like(request.x0, self.seed)
        run = request.run_to_noise(up, hooks=[SteerToNoise(noise, self.gamma)] if self.gamma else [])
        steered = math.ceil(self.until * request.steps - 1e-9)  # 0.07 · 100 is a little more than 7
        hook: Hook = SteerToPicture(request.x0, self.eta)
        hook = hook if steered == request.steps else only(hook, steps=range(steered))
        return FoundNoise(run, down, request.negative_prompt, hooks=(hook,) if steered else ())


class SteerToNoise(Transform):
    """Move the velocity of a flow, on its way to noise, towards the one that goes straight to given noise.

    Args:
        noise: ``[images, channels, h, w]``.
        gamma: from 0 to 1.
    """

    def __init__(self, noise: Tensor, gamma: float) -> None:
        self.noise, self.gamma = noise, gamma

    def start(self, run: Run) -> None:
        self.noise = self.noise.to(run.model.device)

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        straight = (self.noise - step.latents) / (1 - step.sigma)
        return torch.lerp(x, straight.to(x), self.gamma)
