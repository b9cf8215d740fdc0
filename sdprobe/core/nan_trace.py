"""`NanTrace`: where values of a run first became NaN or infinite. Read only at the end, so no device has to wait."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor


class NanTrace:
    """Records whether the values at the points of a run were finite."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, Tensor]] = []

    def note(self, where: str, x: Any) -> None:
        """Record whether a tensor is finite; does not wait for the device."""
        if isinstance(x, Tensor):
            self._noted.append((where, torch.isfinite(x.detach()).all()))

    @property
    def first_broken(self) -> str | None:
        """Where a value first held NaN or infinity; None if no value did."""
        return next((where for where, finite in self._noted if not finite), None)

    def warn(self, latents: Tensor | None) -> None:
        """Warn if the final latents are not finite, and say where that began."""
        if latents is None or torch.isfinite(latents).all():
            return
        began = self.first_broken or "in the last step, in what the denoiser or the scheduler made of finite latents"
        warnings.warn(
            f"the final latents hold NaN or infinities, so the pictures show nothing. That began {began}", stacklevel=2
        )
