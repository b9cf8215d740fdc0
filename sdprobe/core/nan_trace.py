"""Where values of a run first were no numbers: noted as it goes, asked only at its end, so that no device waits."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor


class NanTrace:
    """Whether what passed the points of a run was all numbers."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, Tensor]] = []

    def note(self, where: str, x: Any) -> None:
        """Note whether a value is all numbers, if it is a tensor; nothing is waited for."""
        if isinstance(x, Tensor):
            self._noted.append((where, torch.isfinite(x.detach()).all()))

    @property
    def first_broken(self) -> str | None:
        """Where a value first held NaN or an infinity; None where none did."""
        return next((where for where, finite in self._noted if not finite), None)

    def warn(self, latents: Tensor | None) -> None:
        """Warn of final latents that are no numbers, and say where that began."""
        if latents is None or torch.isfinite(latents).all():
            return
        began = self.first_broken or "in the last step, in what the denoiser or the scheduler made of finite latents"
        warnings.warn(
            f"the final latents hold NaN or infinities, so the pictures show nothing. That began {began}", stacklevel=2
        )
