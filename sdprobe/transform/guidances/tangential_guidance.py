"""`TangentialGuidance`: guidance away from the part of the unconditional prediction that fits the conditional one."""

from __future__ import annotations

import torch

from sdprobe.core.step import Step
from sdprobe.transform.guidances.two_predictions import Latents, ScaledPredictions


class TangentialGuidance(ScaledPredictions):
    """TCFG: project the unconditional prediction on the main direction of both predictions, then guide away from it.

    For each image, the two predictions are two rows of a matrix. Its first right singular vector is the direction that
    they share; what the unconditional prediction has across it is left out.

    It equals the guider of diffusers, `TangentialClassifierFreeGuidance`, bit for bit.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 5.0, "seed": 0, "progress": False}
    >>> hooks = [sdprobe.TangentialGuidance()]
    >>> plain, run = (sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in ([], hooks))
    >>> bool((run.latents == plain.latents).all())
    False

    Args:
        scale: one number, one for each call of the denoiser, or a function of the `Step`; None for the run's own
            ``guidance_scale``.

    Raises:
        ValueError: in a run without guidance.

    Source: Kwon et al. 2025, "TCFG: Tangential Damping Classifier-free Guidance", section 4.
    """

    def guided(self, cond: Latents, uncond: Latents, scale: float, step: Step) -> Latents:
        both = torch.stack([cond, uncond], dim=1).flatten(2)
        both = both.to(torch.promote_types(both.dtype, torch.float32))  # torch has no SVD in half precision
        directions = torch.linalg.svd(both, full_matrices=False).Vh
        shared = directions.clone()
        shared[:, 1] = 0
        fitted = both[:, 1:] @ directions.mT @ shared
        uncond = fitted.reshape(uncond.shape).to(uncond.dtype)
        return uncond + scale * (cond - uncond)
