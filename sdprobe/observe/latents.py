"""`LatentRecorder`: record the latents, the guided noise and predicted x0."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.core.hook import Observer
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.core.recording import Held, Record, Recording, Restored
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.step import Step
from sdprobe.core.torch_names import dtype_of
from sdprobe.core.written_values import MOST_ENTRIES, count, listed

Kept = Literal["latents", "noise_pred", "denoised"]


class LatentRecorder(Observer):
    """Record the latents, and optionally the guided noise and predicted x0, of some steps in CPU memory or on disk.

    >>> import sdprobe
    >>> recorder = sdprobe.LatentRecorder(every=2, keep=("latents", "denoised"))
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[recorder], steps=5, seed=0, progress=False)
    >>> run[recorder].indices, run[recorder]["latents"].shape, run[recorder].final.shape
    ([0, 2, 4], torch.Size([3, 1, 4, 16, 16]), torch.Size([1, 4, 16, 16]))
    >>> run[recorder].at(4)["denoised"].shape
    torch.Size([1, 4, 16, 16])

    Args:
        every: record every ``every``-th step, from the first.
        steps: record exactly these step numbers instead.
        keep: what to record: ``"latents"`` (x_t), ``"noise_pred"``, ``"denoised"`` (predicted x0).
        dtype: the dtype to store, or its name; None keeps the value's own.
        folder: write every step to this folder when it is done, and keep none in memory. The folder is created, or must
            be empty. It can also be read without the run, even after an interruption: see `Recording`.

    Attributes:
        indices: (in a run) the numbers of the steps kept.
        final: (in a run) the final latents ``[images, channels, h, w]``.

    Index the run's copy with a name, ``run[recorder]["latents"]``, for ``[steps, images, channels, h, w]``; ``at``
    returns one step. Those of videos are ``[videos, channels, frames, h, w]``.

    Raises:
        ValueError: for an unknown name in ``keep``, and in a run for a folder that is not empty.
    """

    def __init__(
        self,
        every: int = 1,
        steps: Collection[int] | None = None,
        keep: Sequence[Kept] = ("latents",),
        dtype: torch.dtype | str | None = None,
        folder: str | Path | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        if unknown := [name for name in keep if name not in get_args(Kept)]:
            raise ValueError(f"cannot keep {unknown}; what can be kept: {', '.join(get_args(Kept))}")
        self.every, self.steps, self.keep, self.folder = every, steps, tuple(keep), folder
        self.dtype = None if dtype is None else dtype_of(dtype)

    def start(self, run: Run) -> None:
        self.run = run
        self.record: Record = Held() if self.folder is None else Recording.begun(self.folder)

    def noise_pred(self, x: Tensor, step: Step) -> None:
        if step.index not in self.steps if self.steps is not None else step.index % self.every:
            return
        values = {"latents": lambda: step.latents, "noise_pred": lambda: x, "denoised": lambda: step.denoised(x)}
        self.record.write(step.index, {name: self._kept(values[name]()) for name in self.keep})

    def final_latents(self, x: Tensor, run: Run) -> None:
        self.record.write(None, {"latents": self._kept(x)})

    def finish(self, run: Run) -> None:
        self.record.finish()

    def records(self) -> HookRecords:
        kept: list[tuple[int | None, str]] = [(i, name) for i in self.indices for name in self.record.at(i)]
        places = {f"{index}.{name}": (index, name) for index, name in [*kept, *self._last()]}
        return HookRecords({"kept": [*map(list, places.values())]}, TensorsByKey(places, self._tensor))

    def restore(self, records: HookRecords, run: Run) -> None:
        self.run, steps = run, dict[int | None, dict[str, str]]()
        for entry in listed(records.values["kept"], MOST_ENTRIES):
            index, name = listed(entry, 2)
            if name not in get_args(Kept) or (index is None and name != "latents"):
                raise ValueError(f"{short_repr(entry)} is nothing that is recorded")
            steps.setdefault(None if index is None else count(index), {})[name] = f"{index}.{name}"
        read = records.tensors.__getitem__
        self.record = Restored({index: TensorsByKey(names, read) for index, names in steps.items()})

    @property
    def indices(self) -> list[int]:
        return self.record.indices

    @property
    def final(self) -> Shaped[Tensor, "images channels *frames h w"]:
        return self.record.final

    def at(self, index: int) -> Mapping[str, Shaped[Tensor, "images channels *frames h w"]]:
        """Return what was recorded of one step, by name."""
        return self.record.at(index)

    def __getitem__(self, name: Kept) -> Shaped[Tensor, "steps images channels *frames h w"]:
        return self.record[name]

    def _tensor(self, at: tuple[int | None, str]) -> Tensor:
        index, name = at
        return self.final if index is None else self.record.at(index)[name]

    def _last(self) -> list[tuple[None, str]]:
        try:
            return [(None, "latents")] if self.final is not None else []
        except KeyError:  # a run that did not come to its end
            return []

    def _kept(self, x: Tensor) -> CpuCopy:
        return CpuCopy(x, self.dtype)
