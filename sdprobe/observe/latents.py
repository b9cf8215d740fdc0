"""Record what flows through the loop: the latents, the guided noise, predicted x0."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.hook import Observer
from sdprobe.run import Run, Step

Kept = Literal["latents", "noise_pred", "denoised"]


class LatentRecorder(Observer):
    """Keep the latents, and on request the guided noise and predicted x0, of chosen steps on the CPU.

    >>> import sdprobe
    >>> recorder = sdprobe.LatentRecorder(every=2, keep=("latents", "denoised"))
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[recorder], steps=5, seed=0, progress=False)
    >>> run[recorder].indices, run[recorder]["latents"].shape, run[recorder].final.shape
    ([0, 2, 4], torch.Size([3, 1, 4, 16, 16]), torch.Size([1, 4, 16, 16]))

    Args:
        every: every how many steps, counted from the first.
        steps: exactly these step numbers instead.
        keep: what to keep of them: ``"latents"`` (x_t), ``"noise_pred"``, ``"denoised"`` (predicted x0).
        dtype: what to store them as; None keeps their own.

    Attributes:
        indices: (in a run) the numbers of the steps kept.
        final: (in a run) the final latents ``[images, channels, h, w]``.

    A run's copy indexed with what it kept gives ``[steps, images, channels, h, w]``.
    """

    def __init__(
        self,
        every: int = 1,
        steps: Collection[int] | None = None,
        keep: Sequence[Kept] = ("latents",),
        dtype: torch.dtype | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        if unknown := [name for name in keep if name not in get_args(Kept)]:
            raise ValueError(f"cannot keep {unknown}; what can be kept: {', '.join(get_args(Kept))}")
        self.every, self.steps, self.keep, self.dtype = every, steps, tuple(keep), dtype

    def start(self, run: Run) -> None:
        self.indices: list[int] = []
        self._records: dict[str, list[Tensor]] = {name: [] for name in self.keep}

    def noise_pred(self, x: Tensor, step: Step) -> None:
        if not self._wanted(step.index):
            return
        self.indices.append(step.index)
        if "latents" in self.keep:
            self._store("latents", step.latents)
        if "noise_pred" in self.keep:
            self._store("noise_pred", x)
        if "denoised" in self.keep:
            self._store("denoised", step.denoised(x))

    def final_latents(self, x: Tensor, run: Run) -> None:
        self.final = self._kept(x)

    def __getitem__(self, name: Kept) -> Shaped[Tensor, "steps images channels h w"]:
        if name not in self.keep:
            raise KeyError(f"{name!r} was not kept; kept: {', '.join(self.keep)}")
        return torch.stack(self._records[name])

    def _wanted(self, index: int) -> bool:
        return index in self.steps if self.steps is not None else index % self.every == 0

    def _store(self, name: str, x: Tensor) -> None:
        self._records[name].append(self._kept(x))

    def _kept(self, x: Tensor) -> Tensor:
        return x.detach().to(device="cpu", dtype=self.dtype or x.dtype, copy=True)
