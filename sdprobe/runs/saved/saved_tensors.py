"""`SavedTensors`: tensors in the files of a folder, each of which is read when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from sdprobe.core.short_repr import short_repr
from sdprobe.runs.saved.file_within import file_within

NAME = re.compile(r"tensors-[0-9]{4,6}\.safetensors")
MOST_HEADER_BYTES = 10_000_000
"""Of a file: at most a thousand tensors are written to one, and the header is read whole for each."""


class SavedTensors(Mapping[str, Tensor]):
    """Tensors in files, by name; each is read when it is asked for, and not kept.

    Args:
        folder: the folder of the run.
        under: the folder of the files in it.
        files: the name of each tensor's file.

    Raises ValueError for files of other names than those of tensors: no path is read out of a file.
    """

    def __init__(self, folder: Path, under: str, files: Any) -> None:
        if not isinstance(files, dict) or not all(
            isinstance(own, str) and NAME.fullmatch(own) for own in files.values()
        ):
            raise ValueError(f"{str(folder / under)!r} names files of tensors that are none: {short_repr(files)}")
        self.folder, self.under, self._files = folder, under, files

    def __getitem__(self, name: str) -> Tensor:
        path = file_within(self.folder, f"{self.under}/{self._files[name]}")
        try:
            with path.open("rb") as file:
                header = int.from_bytes(file.read(8), "little")
            if header > MOST_HEADER_BYTES:
                raise ValueError(f"its header has {header} bytes, and may have {MOST_HEADER_BYTES}")
            with safe_open(path, "pt") as opened:
                found: Tensor = opened.get_tensor(name)
        except Exception as error:  # of several libraries; the file may hold anything
            said = short_repr(str(error))
            raise ValueError(f"{short_repr(name)} cannot be read from {str(path)!r}: {said}") from error
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"SavedTensors({len(self)} in {str(self.folder / self.under)!r})"
