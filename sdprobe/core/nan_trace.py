"""`NanTrace`: where values of a run first became NaN or infinite. Read only at the end, so no device has to wait."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor


class NanTrace:
    """Records whether the values at the points of a run were finite."""

    def __init__(self) -> None:
        self._noted: list[tuple[Callable[[], str], Tensor]] = []

    def note(self, x: Tensor, where: Callable[[], str]) -> None:
        """Record whether a tensor is finite; does not wait for the device, and asks where it was only if it broke."""
        self._noted.append((where, torch.isfinite(x.detach()).all()))

    @property
    def first_broken(self) -> str | None:
        """Where a value first held NaN or infinity; None if no value did."""
        return next((where() for where, finite in self._noted if not finite), None)

    def warn(self, latents: Tensor | None) -> None:
        """Warn if the final latents are not finite, and say where that began; forget what was recorded."""
        if latents is not None and not torch.isfinite(latents).all():
            began = (
                self.first_broken or "in the last step, in what the denoiser or the scheduler made of finite latents"
            )
            warnings.warn(
                f"the final latents hold NaN or infinities, so the pictures show nothing. That began {began}",
                stacklevel=2,
            )
        self._noted.clear()
