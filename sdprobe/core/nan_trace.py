"""`NanTrace`: where values of a run first became NaN or infinite. Read only at the end, so no device has to wait."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from sdprobe.core.cpu_copy import CpuCopy


class NanTrace:
    """Records whether the values at the points of a run were finite."""

    def __init__(self) -> None:
        self._noted: list[tuple[Callable[[], str], tuple[Tensor, Tensor]]] = []
        self._final: CpuCopy | None = None

    def note(self, x: Tensor, where: Callable[[], str]) -> None:
        """Record whether a tensor is finite; does not wait for the device, and asks where it was only if it broke."""
        if x.is_floating_point() and x.numel():
            self._noted.append((where, _ends(x)))

    def note_final(self, latents: Tensor) -> None:
        """Record whether the final latents are finite: what `warn` reads has then arrived with the pictures."""
        self._final = CpuCopy(torch.stack(_ends(latents)))

    @property
    def first_broken(self) -> str | None:
        """Where a value first held NaN or infinity; None if no value did."""
        return next((where() for where, ends in self._noted if not all(map(math.isfinite, ends))), None)

    def warn(self, latents: Tensor | None) -> None:
        """Warn if the final latents are not finite, and say where that began."""
        if self._final is None and latents is not None:
            self.note_final(latents)
        if self._final is not None and not self._final.value.isfinite().all():
            began = (
                self.first_broken or "in the last step, in what the denoiser or the scheduler made of finite latents"
            )
            warnings.warn(
                f"the final latents hold NaN or infinities, so the pictures show nothing. That began {began}",
                stacklevel=2,
            )

    def forget(self) -> None:
        """Forget what was recorded."""
        self._noted.clear()
        self._final = None


def _ends(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value, in one pass: both are NaN if any value is."""
    least, greatest = x.detach().aminmax()
    return least, greatest
