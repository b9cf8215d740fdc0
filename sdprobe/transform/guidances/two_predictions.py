"""`TwoPredictions`: base of the guidances that combine the prediction with the prompt and the one without it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.transform.guidances.guidance import Guidance, Scale, checked_scale

Latents = Shaped[Tensor, "images channels *size"]


class TwoPredictions(Transform):
    """Combine the prediction with the prompt and the one without it in another way than classifier-free guidance.

    The result takes the place of the run's own guided noise, so in a list of hooks it comes before others that act at
    ``noise_pred``.

    Raises:
        ValueError: in a run without guidance, and in one with three predictions (InstructPix2Pix).
    """

    def start(self, run: Run) -> None:
        if "uncond" not in run.roles:
            raise ValueError(
                f"there are no two predictions to combine: {type(run.model).__name__} at guidance_scale "
                f"{run.settings.guidance_scale:g} is not asked what it says without the prompt. A guidance that does "
                f"not need it is PerturbedAttention"
            )
        if len(run.roles) > 2:
            raise ValueError(
                f"{self!r} combines two predictions, and {type(run.model).__name__} makes three "
                f"({', '.join(run.roles)}): use Guidance for another scale of its text"
            )

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        assert step.model_output is not None  # at noise_pred there is one
        if "uncond" not in step.roles:
            return x  # the guidance of this step was cut off
        cond, uncond = (step.model_output[step.rows_of(role)] for role in ("cond", "uncond"))
        return self.combined(cond, uncond, step)

    @abstractmethod
    def combined(self, cond: Latents, uncond: Latents, step: Step) -> Latents:
        """Return the guided prediction of each image."""


class ScaledPredictions(TwoPredictions):
    """Combine the two predictions with one scale. At scale 1 the result is the prediction with the prompt, exactly.

    Args:
        scale: one number, one for each call of the denoiser, or a function of the `Step`; None for the run's own
            ``guidance_scale``.

    Raises:
        ValueError: as `TwoPredictions`, and if the number of scales is not the number of steps.
    """

    def __init__(self, scale: Scale | None = None) -> None:
        self.scale = None if scale is None else checked_scale(scale)

    def combined(self, cond: Latents, uncond: Latents, step: Step) -> Latents:
        own = step.run.model
        scale = own.usual_scale(own.scale_at(step)) if self.scale is None else Guidance(self.scale).at(step)
        return cond if scale == 1 else self.guided(cond, uncond, scale, step)

    @abstractmethod
    def guided(self, cond: Latents, uncond: Latents, scale: float, step: Step) -> Latents:
        """Return the guided prediction of each image, at a scale that is not 1."""


def projected(x: Latents, onto: Latents) -> tuple[Latents, Latents]:
    """Return the parts of each image's x that are parallel and orthogonal to another tensor; in double precision."""
    over = tuple(range(1, x.ndim))
    direction = onto.double()
    direction = direction / torch.linalg.vector_norm(direction, dim=over, keepdim=True).clamp_min(1e-12)
    parallel = (x.double() * direction).sum(over, keepdim=True) * direction
    return parallel.to(x.dtype), (x.double() - parallel).to(x.dtype)
