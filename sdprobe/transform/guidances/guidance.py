"""`Guidance`: another scale of classifier-free guidance, also by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform
from sdprobe.core.run import Run
from sdprobe.core.step import Step

Scale = float | Iterable[float] | Callable[[Step], float]


class Guidance(Transform):
    """Use another guidance scale than the run's: one number, one for each step, or a function of the step.

    The guided noise is computed again as uncond + scale · (cond - uncond) from the denoiser's output. With the run's
    own scale it stays the same, bit for bit, and any run with a scale above 1 can be used to get any other scale. In a
    list of hooks, put it before others that act at ``noise_pred``. To guide only some steps, use `sdprobe.only`.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 5.0, "seed": 0, "progress": False}
    >>> falling = sdprobe.Guidance([8, 6, 4, 2])
    >>> cut_off = sdprobe.only(sdprobe.Guidance(1.0), steps=range(2, 4))
    >>> runs = [sdprobe.sample(model, "a red circle", hooks=[hook], **settings) for hook in (falling, cut_off)]
    >>> same = sdprobe.sample(model, "a red circle", hooks=[sdprobe.Guidance(3.0)], **settings)
    >>> at_3 = sdprobe.sample(model, "a red circle", **settings | {"guidance_scale": 3.0})
    >>> bool((same.latents == at_3.latents).all())
    True

    Args:
        scale: 1 is the prompt without guidance, 0 is no prompt. One number, one for each call of the denoiser, or a
            function of the `Step`: ``lambda step: 8 - 6 * step.index / step.total``.

    Raises:
        ValueError: in a run without guidance, and if the number of scales is not the number of steps.

    Source: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", eq. 6; Kynkäänniemi et al. 2024, "Applying
    Guidance in a Limited Interval", for cut-offs.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = checked_scale(scale)

    def start(self, run: Run) -> None:
        if "uncond" not in run.roles:
            raise ValueError(
                f"there is no guidance to change: {type(run.model).__name__} at guidance_scale "
                f"{run.settings.guidance_scale:g} is not asked what it says without the prompt"
            )

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        guided: Tensor = step.run.model.guide(step.model_output, step.rows, self.at(step))
        return guided

    def at(self, step: Step) -> float:
        """Return the scale of a step."""
        if callable(self.scale):
            refuse_not_finite(f"the scale of step {step.index}", scale := self.scale(step))
            return scale
        if not isinstance(self.scale, tuple):
            return self.scale
        if len(self.scale) != step.total:
            raise ValueError(f"{len(self.scale)} scales for {step.total} calls of the denoiser: give one for each")
        return self.scale[step.index]


def checked_scale(scale: Scale) -> float | tuple[float, ...] | Callable[[Step], float]:
    """Return a scale as a hook keeps it: a number, one for each step, or a function. Refuses NaN and infinity."""
    if isinstance(scale, str):
        raise TypeError(f"scale is a number, not {scale!r}")
    if callable(scale):
        return scale
    if isinstance(scale, Iterable) and getattr(scale, "ndim", 1) != 0:  # a 0-dimensional tensor cannot be iterated
        each = tuple(scale)
        for number in each:
            refuse_not_finite("scale", number)
        return each
    refuse_not_finite("scale", scale)
    return cast(float, scale)
