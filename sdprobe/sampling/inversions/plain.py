"""`PlainDDIM` and `PlainEuler`: each step uses the prediction at the level that it leaves."""

from __future__ import annotations

from dataclasses import dataclass

from sdprobe.model.diffusion.ddim_inversion import PlainDDIMInverseScheduler
from sdprobe.model.diffusion.flow_inversion import FlowInverseScheduler
from sdprobe.model.diffusion.schedulers import flow_there_and_back, there_and_back
from sdprobe.sampling.inversions.request import FoundNoise, Request


@dataclass(frozen=True)
class PlainDDIM:
    """DDIM inversion with one denoiser call per step. Its errors add up, more so with guidance.

    Source: Song et al. 2020, "Denoising Diffusion Implicit Models", section 4.3; Dhariwal & Nichol 2021, appendix F.
    """

    def invert(self, request: Request) -> FoundNoise:
        up, down = there_and_back(request.model.pipe, PlainDDIMInverseScheduler)
        return FoundNoise(request.run_to_noise(up), down, request.negative_prompt)


@dataclass(frozen=True)
class PlainEuler:
    """The same for a flow: Euler's method on its equation, with one denoiser call per step.

    Source: Liu et al. 2022, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow".
    """

    def invert(self, request: Request) -> FoundNoise:
        up, down = flow_there_and_back(request.model.pipe, FlowInverseScheduler)
        return FoundNoise(request.run_to_noise(up), down, request.negative_prompt)
