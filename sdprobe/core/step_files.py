"""`StepFiles`: a folder with one safetensors file for each step of a run, each written completely or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdprobe.files.atomic_file import write_atomically

NAME = re.compile(r"step-(\d+)\.safetensors")


class StepFiles:
    """The files of the steps in a folder: ``step-0004.safetensors``, and one more for what belongs to no step.

    >>> import tempfile
    >>> import torch
    >>> files = StepFiles(tempfile.mkdtemp(), rest="outside")
    >>> files.write(4, {"x": torch.ones(2)})
    >>> files.write(None, {"x": torch.zeros(2)})
    >>> files.indices, files.path(4).name, files.path(None).name
    ([4], 'step-0004.safetensors', 'outside.safetensors')
    >>> files.open(4).get_tensor("x")
    tensor([1., 1.])

    Args:
        folder: the folder.
        rest: the name, without suffix, of the file for the index None.
    """

    def __init__(self, folder: str | Path, rest: str) -> None:
        self.folder, self.rest = Path(folder), rest

    @property
    def indices(self) -> list[int]:
        """The numbers of the steps with a file, in order."""
        numbers = (int(found[1]) for path in self.folder.iterdir() if (found := NAME.fullmatch(path.name)))
        # Of two spellings of a number, such as step-1 and step-0001, only the one that `path` writes is read.
        return sorted(index for index in set(numbers) if self.has(index))

    def path(self, index: int | None) -> Path:
        """Return the path of a step's file."""
        return self.folder / (f"{self.rest}.safetensors" if index is None else f"step-{index:04d}.safetensors")

    def has(self, index: int | None) -> bool:
        """Whether a step has a file."""
        return self.path(index).is_file()

    def write(
        self, index: int | None, tensors: Mapping[str, Shaped[Tensor, ...]], metadata: dict[str, str] | None = None
    ) -> None:
        """Write a step's file; one that is there is replaced."""
        with write_atomically(self.path(index)) as beside:
            save_file({name: x.contiguous() for name, x in tensors.items()}, beside, metadata)

    def open(self, index: int | None) -> Any:
        """Return a step's file open for reading, a tensor at a time. Raises ValueError for a file that is not whole."""
        try:
            return safe_open(self.path(index), "pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{str(self.path(index))!r} cannot be read as safetensors: {error}") from error
