"""`FixedPoint`: each step to noise is the inverse of the sampler's step, by fixed-point iteration."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.hook import Transform, overrides
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.model.diffusion.flow_inversion import CorrectedFlowInverseScheduler
from sdprobe.model.diffusion.schedulers import flow_there_and_back, is_straight_flow, there_and_back
from sdprobe.sampling.inversions.request import FoundNoise, Request

Latents = Shaped[Tensor, "images channels *size"]
OUTSIDE = ("model_output", "noise_pred", "sample")
"""The points outside the denoiser, where a hook acts once in a step, and not in its further iterations."""


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
            converge; and if transforms at ``model_output``, ``noise_pred`` or ``sample`` are among the hooks, as they
            act once in each step and not in its iterations.

    Source: Pan et al. 2023, "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion", section 3.2,
    without its acceleration. The iteration starts from a plain step, not from x_s.
    """

    iterations: int | None = None

    def __post_init__(self) -> None:
        if self.iterations is not None and self.iterations < 1:
            raise ValueError(f"iterations is 1 or more, not {self.iterations}: without any, it is 'ddim' or 'euler'")

    def invert(self, request: Request) -> FoundNoise:
        flows = is_straight_flow(request.model.pipe.scheduler)
        pipe, count = request.model.pipe, self.iterations or (30 if flows else 1)
        up, down = flow_there_and_back(pipe, CorrectedFlowInverseScheduler) if flows else there_and_back(pipe)
        if count == 1:
            return FoundNoise(request.run_to_noise(up), down, request.negative_prompt)
        iterate = Iterate(count)
        run = request.run_to_noise(up, hooks=[iterate])
        residuals = tuple(run[iterate].residuals)
        _warn_of_bypassed(run, iterate)
        _warn_if_apart(residuals, request.x0.dtype, count)
        return FoundNoise(run, down, request.negative_prompt, residuals=residuals)


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
        ends, left, change = step.latents, self._left, torch.inf
        rounding = _rounding(ends.dtype)
        for number in range(self.iterations):
            if number:
                output = step.predict(ends)
                x = step.run.model.guide(output, step.rows, step.run.model.scale_at(step))
            self._asked, before = ends, change
            ends = _ends(x, replace(step, latents=ends), left)
            change = _apart(ends, self._asked)
            if change < rounding / 8 or before <= change < rounding:
                break
        self.residuals.append(change)
        return x

    def sample(self, x: Tensor, step: Step) -> Tensor:
        # The scheduler reads noise from an output together with the latents for which it was predicted.
        return x if step.index % 2 == 0 else self._asked

    def finish(self, run: Run) -> None:
        for name in ("_left", "_asked"):  # a step cannot be pickled with the run
            vars(self).pop(name, None)


def _ends(output: Latents, step: Step, left: Step) -> Latents:
    """Return where a step from the level left ends with this prediction at the level reached."""
    x_t = step.latents
    if is_straight_flow(step.run.model.pipe.scheduler):
        return (left.latents.float() + (step.sigma - left.sigma) * output).to(x_t.dtype)
    x0 = step.denoised(output)
    if not step.signal:  # noise alone: that of the latents left, beside predicted x0
        return (left.latents - left.signal * x0) / left.noise
    noise = (x_t - step.signal * x0) / step.noise
    return step.signal * (left.latents - left.noise * noise) / left.signal + step.noise * noise


def _apart(a: Latents, b: Latents) -> float:
    """Return the root mean square of a difference, relative to the latents, for the image where it is most."""
    size = b.float().square().mean((1, 2, 3)).sqrt()
    return float(((a - b).float().square().mean((1, 2, 3)).sqrt() / size).max())


def _rounding(dtype: torch.dtype) -> float:
    """Return by how much latents may differ, relative to their size, and count as equal."""
    return max(torch.finfo(dtype).eps, 8 * torch.finfo(torch.float32).eps)


def _warn_of_bypassed(run: Run, own: Iterate) -> None:
    acting = [(given, getattr(live, "inner", live)) for given, live in run.records if given is not own]
    found = [
        (given, point)
        for given, hook in acting
        for point in OUTSIDE
        if isinstance(hook, Transform) and overrides(hook, point)
    ]
    if found:
        warnings.warn(
            f"{found[0][0]!r} acts at {found[0][1]!r}, once in each step of the inversion, and not in the iterations "
            f"of the fixed point: where these converge, the picture still does not come back exactly. Give it to the "
            f"run back only, or invert with iterations=1",
            stacklevel=4,
        )


def _warn_if_apart(residuals: tuple[float, ...], dtype: torch.dtype, count: int) -> None:
    least = _rounding(dtype)
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
