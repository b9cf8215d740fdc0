"""`RunFolder`: the folder of a saved run. Each file is written completely or not at all, and checked when it is read.

    run.json                      what the run is: settings, model, versions, hooks; "complete" once all is written
    prompts.json, coverage.json
    tensors-0000.safetensors      the final latents
    images/0000.png               one for each image
    hooks/00/records.json         the records of a hook, and in which file each of its tensors is
    hooks/00/tensors-0000.safetensors

Nothing in it is ever executed, and the names of files are made here: no path is read out of a file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdprobe.core.atomic_file import write_atomically
from sdprobe.core.short_repr import short_repr

FORMAT = "sdprobe run"
SCHEMA = 1
MOST_JSON_BYTES = 100_000_000
FILE_BYTES = 256_000_000
"""A file of tensors is closed when it holds this much, so that writing needs no more memory."""
FILE_TENSORS = 1000
"""And when it holds this many: to read one, the list of all in its file is read."""
SIDES = ("prompts", "negative_prompts")
LAYOUT = (
    "prompts.json",
    "coverage.json",
    "tensors-*.safetensors",
    "images/*.png",
    "hooks/*/tensors-*.safetensors",
    "hooks/*/records.json",
    "run.json",
)
TENSOR_FILE = re.compile(r"tensors-[0-9]{4,6}\.safetensors")


class RunFolder:
    """The folder of a saved run.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def begun(cls, path: str | Path) -> RunFolder:
        """Begin a folder. Raises ValueError for one that is not empty, and for a file."""
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{str(path)!r} is a file, and a run is saved to a folder")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"the folder {str(path)!r} has something in it: every run is saved to a folder of its own")
        return cls(folder)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file. Raises ValueError for what no JSON can hold, such as a number that is not finite."""
        text = json.dumps(content, indent=1, allow_nan=False)
        with self._writing(name) as beside:
            beside.write_text(text, encoding="utf-8")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file. Raises ValueError for one that is missing, too long, or holds no JSON object."""
        path = self.path / name
        try:
            if path.stat().st_size > MOST_JSON_BYTES:
                raise ValueError(f"it is longer than {MOST_JSON_BYTES / 1e6:.0f} MB")
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{name} is missing in {str(self.path)!r}: the run was not saved completely") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{str(path)!r} holds no JSON object, but {short_repr(found)}")
        return found

    def write_tensors(self, under: str, tensors: Mapping[str, Shaped[Tensor, ...]]) -> dict[str, str]:
        """Write tensors to files in a folder under this one, and return the name of the file of each.

        They are read one at a time, and written whenever `FILE_BYTES` are together.
        """
        files: dict[str, str] = {}
        waiting: dict[str, Tensor] = {}
        size = 0  # of those that wait
        places: set[int] = set()
        for name, x in tensors.items():
            if waiting and (size + x.nbytes > FILE_BYTES or len(waiting) == FILE_TENSORS):
                self._write_file(under, waiting, files)
                size, places = 0, set()
            own = _alone(x)
            waiting[name] = own.clone() if own.nbytes and own.data_ptr() in places else own
            size += own.nbytes
            places.add(own.data_ptr())
        if waiting:
            self._write_file(under, waiting, files)
        return files

    def tensors(self, under: str, files: Any) -> SavedTensors:
        """Return the tensors that `write_tensors` wrote. Raises ValueError for anything else than it returned."""
        if not isinstance(files, dict) or not all(
            isinstance(file, str) and TENSOR_FILE.fullmatch(file) for file in files.values()
        ):
            raise ValueError(f"{str(self.path / under)!r} names files of tensors that are none: {short_repr(files)}")
        return SavedTensors(self.path / under, files)

    def write_image(self, name: str, image: Image.Image) -> None:
        """Write an image as PNG."""
        with self._writing(name) as beside:
            image.save(beside, format="PNG")

    def read_image(self, name: str) -> Image.Image:
        """Read a PNG file. Raises ValueError for one that is missing, and for anything else."""
        try:
            with Image.open(self.path / name, formats=("PNG",)) as image:
                image.load()
                return Image.frombytes(image.mode, image.size, image.tobytes())
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
            raise ValueError(f"{str(self.path / name)!r} cannot be read as an image: {error}") from error

    def copy_to(self, path: str | Path) -> Path:
        """Copy the files of the run to another folder, ``run.json`` last; return the path."""
        to = RunFolder.begun(path)
        for name in (name for pattern in LAYOUT for name in sorted(self.path.glob(pattern))):
            if name.is_file() and not name.is_symlink():
                with to._writing(str(name.relative_to(self.path))) as beside:
                    shutil.copyfile(name, beside)
        return to.path

    def _write_file(self, under: str, waiting: dict[str, Tensor], files: dict[str, str]) -> None:
        file = f"tensors-{len(set(files.values())):04d}.safetensors"
        with self._writing(f"{under}/{file}") as beside:
            save_file(waiting, beside)
        files.update(dict.fromkeys(waiting, file))
        waiting.clear()

    def _writing(self, name: str) -> Any:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_atomically(path)


class SavedTensors(Mapping[str, Tensor]):
    """Tensors in files, by name; each is read when it is asked for, and not kept.

    Args:
        folder: the folder of the files.
        files: the name of each tensor's file.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder, self._files = folder, files

    def __getitem__(self, name: str) -> Tensor:
        path = self.folder / self._files[name]
        try:
            with safe_open(path, "pt") as file:
                found: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ValueError(f"{name!r} cannot be read from {str(path)!r}: {error}") from error
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"SavedTensors({len(self)} in {str(self.folder)!r})"


def folder_of_hook(number: int) -> str:
    """Return the name of the folder of a hook's records.

    >>> folder_of_hook(3)
    'hooks/03'
    """
    return f"hooks/{number:02d}"


def _alone(x: Tensor) -> Tensor:
    """Return a tensor as a file holds it: contiguous, on the CPU, and with its memory to itself."""
    x = x.detach().cpu().contiguous()
    return x.clone() if x.untyped_storage().nbytes() != x.nbytes else x
