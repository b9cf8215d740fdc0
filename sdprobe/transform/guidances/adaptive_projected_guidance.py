"""`AdaptiveProjectedGuidance`: classifier-free guidance without the part that saturates."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.transform.guidances.guidance import Scale
from sdprobe.transform.guidances.two_predictions import Latents, ScaledPredictions, projected

SPACES = ("output", "x0")

USUAL = 15 / math.sqrt(4 * 128 * 128)
"""The greatest length for Stable Diffusion XL, per root of the number of latents."""


class AdaptiveProjectedGuidance(ScaledPredictions):
    """Guide with the part of the difference that is orthogonal to the prediction, of limited length, with momentum.

    The prediction becomes cond + (scale − 1) · (orthogonal + eta · parallel). The two parts are those of the difference
    cond − uncond, to which the earlier steps' differences are added with a negative weight, and which is shortened to
    a greatest length. The part parallel to the prediction makes colours saturated.

    It equals the guider of diffusers, `AdaptiveProjectedGuidance`, bit for bit, where that has
    ``use_original_formulation=True`` and a scale less by 1. Without this option the guider begins at uncond instead of
    cond, so that a difference which is shortened, or whose parallel part is left out, loses some of the prompt.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 15.0, "seed": 0, "progress": False}
    >>> hooks = [sdprobe.AdaptiveProjectedGuidance()]
    >>> plain, run = (sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in ([], hooks))
    >>> float(run.latents.abs().max()) < float(plain.latents.abs().max())
    True

    Args:
        scale: one number, one for each call of the denoiser, or a function of the `Step`; None for the run's own
            ``guidance_scale``. It is for high scales, 10 to 15, where classifier-free guidance saturates.
        momentum: the weight of the sum of the earlier steps' differences; 0 for none. It is usually −0.75 to −0.5.
        norm: the greatest length of the difference, over all channels and places of an image; 0 for no limit. Usual for
            Stable Diffusion XL is 15. None for 15 there, with latents of 4 × 128 × 128, and in proportion to the root
            of their size elsewhere: 7.5 for 4 × 64 × 64.
        eta: the weight of the parallel part: 0 leaves it out, 1 keeps it. With 1, momentum 0 and no greatest length,
            this is classifier-free guidance, up to rounding.
        space: ``"output"`` for the difference of what the denoiser predicts, or ``"x0"`` for that of predicted x0, on
            which the type of the prediction has no influence. Early in a run that is much longer.

    The sum of the earlier differences begins anew in every run, also in one that continues another.

    Raises:
        ValueError: in a run without guidance; for an unknown space, and a length below 0.

    Source: Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
    section 5 and algorithm 1.
    """

    def __init__(
        self,
        scale: Scale | None = None,
        *,
        momentum: float = -0.5,
        norm: float | None = None,
        eta: float = 0.0,
        space: Literal["output", "x0"] = "output",
    ) -> None:
        super().__init__(scale)
        refuse_not_finite("momentum", momentum)
        refuse_not_finite("eta", eta)
        if norm is not None and not norm >= 0:
            raise ValueError(f"norm is the greatest length of the difference, or 0 for no limit, and not {norm}")
        if space not in SPACES:
            raise ValueError(f"space is 'output' or 'x0', not {space!r}")
        self.momentum, self.norm, self.eta, self.space = momentum, norm, eta, space

    def start(self, run: Run) -> None:
        super().start(run)
        self._sum: Tensor | None = None

    def guided(self, cond: Latents, uncond: Latents, scale: float, step: Step) -> Latents:
        if self.space == "output":
            return cond + (scale - 1) * self._update(cond, uncond)
        x0 = step.denoised(cond)
        change = (scale - 1) * self._update(x0, step.denoised(uncond))
        return cond + step.output_for(change, torch.zeros_like(x0)).to(cond.dtype)

    def _update(self, cond: Latents, uncond: Latents) -> Latents:
        difference = cond - uncond
        if self.momentum:
            difference = difference if self._sum is None else difference + self.momentum * self._sum
            self._sum = difference.detach()
        greatest = USUAL * math.sqrt(difference[0].numel()) if self.norm is None else self.norm
        if greatest:
            length = torch.linalg.vector_norm(difference, dim=tuple(range(1, difference.ndim)), keepdim=True)
            difference = difference * (greatest / length).clamp_max(1)
        parallel, orthogonal = projected(difference, cond)
        return orthogonal + self.eta * parallel
