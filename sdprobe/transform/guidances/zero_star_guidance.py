"""`ZeroStarGuidance`: the unconditional prediction scaled to fit the conditional one, and no move at first."""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

from sdprobe.core.each_image import each_image
from sdprobe.core.step import Step
from sdprobe.transform.guidances.guidance import Scale
from sdprobe.transform.guidances.two_predictions import Latents, ScaledPredictions


class ZeroStarGuidance(ScaledPredictions):
    """CFG-Zero*: scale the unconditional prediction to be nearest to the conditional one, then guide away from it.

    With s = ⟨cond, uncond⟩ / ‖uncond‖² of each image, the prediction is s · uncond + scale · (cond − s · uncond). In
    the first steps it is zero. Zero means no move in a flow (Stable Diffusion 3): the latents stay as they are. It does
    not in a model that predicts noise, so there use ``zero_steps=0``.

    It equals the guider of diffusers, `ClassifierFreeZeroStarGuidance`, bit for bit; that has ``zero_init_steps=1``
    for all models.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 5.0, "seed": 0, "progress": False}
    >>> hooks = [sdprobe.ZeroStarGuidance(zero_steps=0)]
    >>> plain, run = (sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in ([], hooks))
    >>> bool((run.latents == plain.latents).all())
    False

    Args:
        scale: one number, one for each call of the denoiser, or a function of the `Step`; None for the run's own
            ``guidance_scale``.
        zero_steps: the number of first calls of the denoiser whose prediction is zero. The paper uses the first 4% of
            the steps. None for 1 in a flow, and 0 elsewhere. In a run from an image none is: the steps that are meant
            are those that it leaves out. Nor is a step whose guidance is cut off (`CutGuidance`), as this is not in it.

    Raises:
        ValueError: in a run without guidance, and for a negative number of steps.

    Source: Fan et al. 2025, "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models", section 4.
    """

    def __init__(self, scale: Scale | None = None, *, zero_steps: int | None = None) -> None:
        super().__init__(scale)
        if zero_steps is not None and operator.index(zero_steps) < 0:
            raise ValueError(f"zero_steps counts the first steps, and is not {zero_steps}")
        self.zero_steps = zero_steps

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        if step.run.settings.start_step or "uncond" not in step.roles:
            still = False
        elif self.zero_steps is None:
            still = step.index == 0 and _is_of_flow(step)
        else:
            still = step.index < self.zero_steps
        return torch.zeros_like(x) if still else super().noise_pred(x, step)

    def guided(self, cond: Latents, uncond: Latents, scale: float, step: Step) -> Latents:
        # In half precision the sums would overflow.
        given, fitted = (x.flatten(1).to(torch.promote_types(x.dtype, torch.float32)) for x in (cond, uncond))
        factor = (given * fitted).sum(1) / ((fitted**2).sum(1) + 1e-8)
        uncond = uncond * each_image(factor, uncond).to(uncond.dtype)
        return uncond + scale * (cond - uncond)


def _is_of_flow(step: Step) -> bool:
    """Whether the denoiser predicts the velocity of a flow, so that a prediction of zero is no move."""
    if not math.isclose(step.signal + step.noise, 1, rel_tol=1e-4):  # x_t = (1 - σ) x0 + σ ε
        return False
    return torch.equal(step.denoised(torch.zeros_like(step.latents)), step.latents)
