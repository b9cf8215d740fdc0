"""`FixedPoint`: each step to noise is the inverse of the sampler's step, by fixed-point iteration."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.model.diffusion.flow_inversion import CorrectedFlowInverseScheduler
from sdprobe.model.diffusion.schedulers import flow_there_and_back, is_flow_matching, there_and_back
from sdprobe.sampling.inversions.request import Found, Request

Latents = Shaped[Tensor, "images channels h w"]
ROUNDING = 8
"""Latents count as equal if they differ, in the root mean square, by less than so many times the dtype's precision."""


@dataclass(frozen=True)
class FixedPoint:
    """Fixed-point iteration: the noise from which the sampler's own steps lead to the picture.

    The sampler's step from t down to s uses the prediction at x_t. For the step up, x_t is unknown: x_t = f(x_s,
    prediction at x_t) is solved by iteration from a plain step. If it converges, the run back makes the very latents
    of the picture, up to rounding. It converges the better the more steps there are, and the less guidance.

    EDICT (Wallace et al. 2023) is exact for any number of steps, but it needs two coupled latents and a sampler of its
    own, so that a picture is another one than under the stock scheduler. A fixed point keeps the sampler: edits, maps
    and hooks of the run back are those of an ordinary run.

    Args:
        iterations: denoiser calls per step at the level that it reaches, at most: the iteration ends as soon as a
            further one would change nothing but the rounding. None is 1 with the noise levels of DDIM, which is a
            correction and claims nothing, and 30 in a flow. With more than 1, a warning tells if a step did not
            converge.

    Source: Pan et al. 2023, "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion", section 3.2,
    without its acceleration. The iteration starts from a plain step, not from x_s.
    """

    iterations: int | None = None

    def __post_init__(self) -> None:
        if self.iterations is not None and self.iterations < 1:
            raise ValueError(f"iterations is 1 or more, not {self.iterations}: without any, it is 'ddim' or 'euler'")

    def invert(self, request: Request) -> Found:
        flows = is_flow_matching(request.model.pipe.scheduler)
        pipe, count = request.model.pipe, self.iterations or (30 if flows else 1)
        up, down = flow_there_and_back(pipe, CorrectedFlowInverseScheduler) if flows else there_and_back(pipe)
        if count == 1:
            return Found(request.run_to_noise(up), down, request.negative_prompt)
        iterate = Iterate(count)
        run = request.run_to_noise(up, hooks=[iterate])
        residuals = tuple(run[iterate].residuals)
        _warn_if_apart(residuals, request.x0.dtype, count)
        return Found(run, down, request.negative_prompt, residuals=residuals)


class Iterate(Transform):
    """At the second call of each step, repeat the step until its end no longer changes.

    Args:
        iterations: calls at the level reached, at most.

    Attributes:
        residuals: (in a run) for each step, how much the last iteration changed the latents, relative to them, for the
            image where that is most.
    """

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def start(self, run: Run) -> None:
        self.residuals: list[float] = []

    def latents(self, x: Tensor, step: Step) -> Tensor:
        if step.index % 2 == 0:
            self._left = step
        return x

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        if step.index % 2 == 0:
            return x
        x_t, left, settings = step.latents, self._left, step.run.settings
        for number in range(self.iterations):
            if number:
                output = step.predict(x_t)
                x = step.run.model.guide(output, step.rows, settings.guidance_scale)
            ends = _ends(x, replace(step, latents=x_t), left)
            change = _apart(ends, x_t)
            x_t = ends
            if change < ROUNDING * torch.finfo(x_t.dtype).eps:
                break
        self.residuals.append(change)
        return x

    def finish(self, run: Run) -> None:
        vars(self).pop("_left", None)  # a step cannot be pickled with the run


def _ends(output: Latents, step: Step, left: Step) -> Latents:
    """Return where a step from the level left ends with this prediction at the level reached."""
    x_t = step.latents
    if is_flow_matching(step.run.model.pipe.scheduler):
        return (left.latents.float() + (step.sigma - left.sigma) * output).to(x_t.dtype)
    x0 = step.denoised(output)
    noise = (x_t - step.signal * x0) / step.noise
    return step.signal * (left.latents - left.noise * noise) / left.signal + step.noise * noise


def _apart(a: Latents, b: Latents) -> float:
    """Return the root mean square of a difference, relative to the latents, for the image where it is most."""
    size = b.float().square().mean((1, 2, 3)).sqrt()
    return float(((a - b).float().square().mean((1, 2, 3)).sqrt() / size).max())


def _warn_if_apart(residuals: tuple[float, ...], dtype: torch.dtype, count: int) -> None:
    least = ROUNDING * torch.finfo(dtype).eps
    worst = max(range(len(residuals)), key=lambda i: residuals[i] if residuals[i] == residuals[i] else torch.inf)
    if not residuals[worst] < least:
        apart = sum(not residual < least for residual in residuals)
        warnings.warn(
            f"the fixed-point iteration has not converged in {apart} of {len(residuals)} steps: after {count} "
            f"iterations, the last one still changed the latents by {residuals[worst]:.1g} of their size in step "
            f"{worst} (Inversion.residuals), so that the picture does not come back exactly. More steps or less "
            f"guidance make it converge",
            stacklevel=4,
        )
