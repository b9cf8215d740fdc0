"""`DynamicThreshold`: limit the range of predicted x0, against saturation by guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.each_image import each_image
from sdprobe.core.hook import Transform
from sdprobe.core.step import Step

Bound = float | Callable[[Step], float | Float[Tensor, " images"]]


class DynamicThreshold(Transform):
    """Rescale each image's predicted x0 to a bound, if its largest values exceed the bound.

    Let s be the given percentile of |x0| over an image, or the bound if that is larger. x0 is clipped to [-s, s] and
    rescaled to [-bound, bound]. The scheduler gets a prediction that matches, including its noise.

    With the bound 1, a run equals, up to rounding, one under a scheduler of diffusers with ``thresholding=True``,
    ``dynamic_thresholding_ratio=percentile`` and a very large ``sample_max_value``: DDPM, DPM-Solver, UniPC, DEIS and
    SA-Solver, for any prediction type. DDIM in diffusers keeps the earlier noise, unless its step gets
    ``use_clipped_model_output=True``.

    The bound 1 is that of pixels. Latents have no fixed bound: on most models they are between -3 and 3. A bound for
    each image and step is the range of x0 under weaker guidance, known as mimic scale:

    >>> import sdprobe
    >>> def mild(step):
    ...     guided = step.run.model.guide(step.model_output, step.rows, 3.0)
    ...     return step.denoised(guided).abs().flatten(1).quantile(0.995, dim=1)
    >>> squeeze = sdprobe.DynamicThreshold(0.995, bound=mild)
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[squeeze], steps=4, guidance_scale=15.0, seed=0, progress=False
    ... )

    Args:
        percentile: in (0, 1]; with 1 nothing is clipped, x0 is only rescaled.
        bound: the largest |x0|: a number above 0, or a function of the `Step` that returns one, for all images or for
            each.

    Raises:
        ValueError: for a percentile outside (0, 1], and for a bound that is not above 0.

    Source: Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding"
    (Imagen), section 2.3 and figure A.10.
    """

    def __init__(self, percentile: float = 0.995, bound: Bound = 1.0) -> None:
        if not 0 < percentile <= 1:
            raise ValueError(f"percentile lies above 0 and up to 1, not at {percentile}")
        if not callable(bound) and not bound > 0:
            raise ValueError(f"bound is above 0, not {bound}")
        self.percentile, self.bound = percentile, bound

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        x0 = step.denoised(x)
        size = x0.abs().flatten(1).float()
        bound = torch.as_tensor(self.bound(step) if callable(self.bound) else self.bound, dtype=size.dtype)
        if callable(self.bound) and not (bound > 0).all():
            raise ValueError(f"bound is above 0; at step {step.index} it is {bound.expand(len(x0)).tolist()}")
        bound = bound.to(size.device, non_blocking=True).expand(len(x0))
        spread = size.quantile(self.percentile, dim=1).maximum(bound)
        bound, spread = (each_image(values, x0).to(x0.dtype) for values in (bound, spread))
        squeezed = x0.clamp(-spread, spread) * (bound / spread)
        return x + step.output_for(squeezed - x0, torch.zeros_like(x0)).to(x.dtype)
