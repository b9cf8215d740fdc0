"""`Recording`: what was kept of the steps of a run, in memory or in a folder that is readable during the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.cpu_copy import CpuCopy, settle
from sdprobe.core.step_files import StepFiles


class Record(ABC):
    """Tensors by step and name; the index None holds what follows the last step."""

    @property
    @abstractmethod
    def indices(self) -> list[int]:
        """The numbers of the recorded steps."""

    @abstractmethod
    def write(self, index: int | None, tensors: Mapping[str, CpuCopy]) -> None:
        """Record a step."""

    @abstractmethod
    def finish(self) -> None:
        """Wait for what is still on its way to the CPU."""

    @abstractmethod
    def _read(self, index: int | None) -> Mapping[str, Tensor] | None: ...

    def at(self, index: int) -> Mapping[str, Shaped[Tensor, "images channels *size"]]:
        """Return everything kept of one step, by name. Raises KeyError for a step that was not kept."""
        found = self._read(index)
        if found is None:
            raise KeyError(f"step {index} was not kept; kept: {', '.join(map(str, self.indices)) or 'none'}")
        return found

    def __getitem__(self, name: str) -> Shaped[Tensor, "steps images channels h w"]:
        """Return one kept value over all steps. Raises KeyError if it was not kept."""
        indices = self.indices
        if not indices:
            raise KeyError(f"no step was kept, so there is no {name!r}")
        if name not in (kept := self.at(indices[0])):
            raise KeyError(f"{name!r} was not kept; kept: {', '.join(kept)}")
        found = [self.at(index)[name] for index in indices]
        if len({(x.shape, x.dtype) for x in found}) > 1:
            raise ValueError(f"{name!r} has not the same shape and dtype in all steps: ask for one step, by at(step)")
        return torch.stack(found)

    @property
    def final(self) -> Shaped[Tensor, "images channels *size"]:
        """The final latents. Raises KeyError if the run has not finished."""
        found = self._read(None)
        if found is None:
            raise KeyError("the run has not come to its end: there are no final latents")
        return found["latents"]


class Held(Record):
    """A record in memory."""

    def __init__(self) -> None:
        self._steps: dict[int | None, Mapping[str, CpuCopy]] = {}

    @property
    def indices(self) -> list[int]:
        return [index for index in self._steps if index is not None]

    def write(self, index: int | None, tensors: Mapping[str, CpuCopy]) -> None:
        settle(copied for step in self._steps.values() for copied in step.values())
        self._steps[index] = tensors

    def finish(self) -> None:
        for index in self._steps:
            self._read(index)

    def _read(self, index: int | None) -> Mapping[str, Tensor] | None:
        found = self._steps.get(index)
        return None if found is None else {name: copied.value for name, copied in found.items()}


class Restored(Record):
    """A record of a saved run, in which each tensor is read when it is asked for.

    Args:
        steps: the tensors of each step, by name.
    """

    def __init__(self, steps: Mapping[int | None, Mapping[str, Tensor]]) -> None:
        self._steps = steps

    @property
    def indices(self) -> list[int]:
        return [index for index in self._steps if index is not None]

    def write(self, index: int | None, tensors: Mapping[str, CpuCopy]) -> None:
        raise ValueError("this record belongs to a run that was saved, and nothing can be added to it")

    def finish(self) -> None:
        return

    def _read(self, index: int | None) -> Mapping[str, Tensor] | None:
        return self._steps.get(index)


class Recording(Record):
    """A folder of steps as `LatentRecorder` writes it, one file per step; a step is read when it is asked for.

    A file appears in the folder only when it is complete, so an interrupted run leaves every step it finished.

    >>> import tempfile
    >>> import sdprobe
    >>> folder = tempfile.mkdtemp()
    >>> recorder = sdprobe.LatentRecorder(folder=folder)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[recorder], steps=3, seed=0, progress=False)
    >>> recording = sdprobe.Recording(folder)
    >>> recording.indices, recording["latents"].shape, recording.at(2)["latents"].shape
    ([0, 1, 2], torch.Size([3, 1, 4, 16, 16]), torch.Size([1, 4, 16, 16]))
    >>> bool((recording.final == run.latents).all())
    True

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self._files = Path(folder), StepFiles(folder, rest="final")
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder {str(folder)!r} to read a recording from")

    @classmethod
    def begun(cls, folder: str | Path) -> Recording:
        """Start a new recording in an empty folder. Raises ValueError for a folder that is not empty."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        if any(Path(folder).iterdir()):
            raise ValueError(f"the folder {str(folder)!r} has something in it: every recording needs one of its own")
        return cls(folder)

    @property
    def indices(self) -> list[int]:
        return self._files.indices

    def write(self, index: int | None, tensors: Mapping[str, CpuCopy]) -> None:
        self._files.write(index, {name: copied.value for name, copied in tensors.items()})

    def finish(self) -> None:
        return  # every step waited until it was written

    def _read(self, index: int | None) -> Mapping[str, Tensor] | None:
        if not self._files.has(index):
            return None
        with self._files.open(index) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dictionary

    def __repr__(self) -> str:
        count = len(self.indices)
        return f"Recording({str(self.folder)!r}, {count} step{'s' * (count != 1)})"
