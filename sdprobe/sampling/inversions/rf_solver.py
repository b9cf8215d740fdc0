"""`RFSolver`: a flow's equation in steps of second order, in both directions."""

from __future__ import annotations

from dataclasses import dataclass

from sdprobe.model.diffusion.rf_solver import RFSolverInverseScheduler, RFSolverScheduler
from sdprobe.model.diffusion.schedulers import flow_there_and_back
from sdprobe.sampling.inversions.request import FoundNoise, Request


@dataclass(frozen=True)
class RFSolver:
    """RF-Solver, for flows: two denoiser calls per step, to noise and back.

    Its error falls with the square of the step's length, and that of Euler's method with the length. The run back uses
    the same solver, so the pictures are not those of the stock scheduler. Sharing of features (RF-Edit) is not part of
    it.

    Source: Wang et al. 2024, "Taming Rectified Flow for Inversion and Editing", section 3.2.
    """

    def invert(self, request: Request) -> FoundNoise:
        up, down = flow_there_and_back(request.model.pipe, RFSolverInverseScheduler, RFSolverScheduler)
        return FoundNoise(request.run_to_noise(up), down, request.negative_prompt)
