"""`RescaleGuidance`: reduce overexposure by guidance."""

from __future__ import annotations

from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.step import Step


class RescaleGuidance(Transform):
    """Rescale the guided noise, fully or in part, to the standard deviation of the conditional prediction.

    With a high guidance scale every step is too large, and images are overexposed. This equals a stock pipeline with
    ``guidance_rescale=amount``, bit for bit.

    >>> import sdprobe
    >>> rescale = sdprobe.RescaleGuidance(0.7)
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[rescale], steps=3, guidance_scale=12.0, seed=0, progress=False
    ... )

    Args:
        amount: from 0, no rescaling, to 1, full rescaling; the paper uses 0.7.

    Raises:
        ValueError: for an amount outside [0, 1].

    Source: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", eq. 14 to 16.
    """

    def __init__(self, amount: float = 0.7) -> None:
        if not 0 <= amount <= 1:
            raise ValueError(f"amount lies between 0 and 1, not at {amount}")
        self.amount = amount

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        if not self.amount:
            return x
        assert step.model_output is not None  # at noise_pred there is one
        cond = step.model_output[step.rows_of("cond")]
        over = tuple(range(1, x.ndim))
        rescaled = x * (cond.std(over, keepdim=True) / x.std(over, keepdim=True))
        return self.amount * rescaled + (1 - self.amount) * x
