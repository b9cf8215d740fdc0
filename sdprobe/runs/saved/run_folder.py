"""`RunFolder`: the folder of a saved run. Each file is written completely or not at all, and checked when it is read.

    run.json                      what the run is: settings, model, versions, hooks; "complete" once all is written
    prompts.json, coverage.json
    tensors-0000.safetensors      the final latents
    images/0000.png               one for each image
    hooks/00/records.json         the records of a hook, and in which file each of its tensors is
    hooks/00/tensors-0000.safetensors
    .saving                       an empty folder, while the run is being saved

Nothing in it is ever executed, no file outside of it is read, and the names of files are made here: no path is read out
of a file. A later version of the same schema may add keys, which this one ignores.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sdprobe.core.short_repr import short_repr
from sdprobe.files.atomic_file import make_folders, write_atomically
from sdprobe.runs.saved.file_within import file_within
from sdprobe.runs.saved.saved_tensors import SavedTensors

FORMAT = "sdprobe run"
SCHEMA = 1
# What a file may hold, so that no file costs its reader more than half a gigabyte.
MOST_JSON_BYTES = 32_000_000
MOST_JSON_ENTRIES = 1_000_000
MOST_PIXELS = 50_000_000
FILE_BYTES = 256_000_000
"""A file of tensors is closed when it holds this much, so that writing needs no more memory."""
FILE_TENSORS = 1_000
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
CLAIM = ".saving"


class NotWritten(OSError):
    """A file of a run could not be written, as on a full disk. What was written before can be opened."""


class RunFolder:
    """The folder of a saved run.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    @contextmanager
    def begun(cls, path: str | Path) -> Iterator[RunFolder]:
        """Give a folder to write a run to, which no other process is given at the same time.

        Raises ValueError for one that is not empty, and for a file; `NotWritten` where nothing can be written. What was
        refused leaves nothing behind.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{str(path)!r} is a file, and a run is saved to a folder")
        made = [own for own in (folder, *folder.parents) if not own.exists()]
        try:
            make_folders(folder)
            (folder / CLAIM).mkdir()  # by one process alone
        except FileExistsError:
            raise _in_use(path) from None
        except OSError as error:
            _remove_empty(made)
            raise NotWritten(error.errno, f"a run cannot be saved to {str(path)!r}: {error.strerror}") from error
        try:
            if [own.name for own in folder.iterdir()] != [CLAIM]:
                raise _in_use(path)
            yield cls(folder)
        finally:
            _remove_empty([folder / CLAIM, *made])

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file. Raises ValueError for what no JSON can hold, such as a number that is not finite."""
        lines = 1 if name == "run.json" else None  # which people read; without lines it is written much faster
        text = json.dumps(content, indent=lines, allow_nan=False).encode("ascii")
        if why := _too_much(text):
            raise ValueError(f"{name} cannot be written: {why}; numbers that are many are kept as tensors")
        with self._writing(name) as beside:
            beside.write_bytes(text)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file. Raises ValueError for one that is missing, too long, or holds no JSON object."""
        path = file_within(self.path, name)
        try:
            if path.stat().st_size > MOST_JSON_BYTES:
                raise ValueError(f"it is longer than {MOST_JSON_BYTES / 1e6:.0f} MB")
            text = path.read_bytes()
            if why := _too_much(text):
                raise ValueError(why)
            found = json.loads(text, parse_constant=_refuse_constant)
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as JSON: {short_repr(str(error))}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{str(path)!r} holds no JSON object, but {short_repr(found)}")
        return found

    def write_tensors(self, under: str, tensors: Mapping[str, Shaped[Tensor, ...]]) -> dict[str, str]:
        """Write tensors to files in a folder under this one, and return the name of the file of each.

        They are read one at a time, and written whenever `FILE_BYTES` or `FILE_TENSORS` are together.
        """
        files: dict[str, str] = {}
        waiting: dict[str, Tensor] = {}
        memory: set[int] = set()
        held = 0
        for name, x in tensors.items():
            if waiting and (held + x.nbytes > FILE_BYTES or len(waiting) == FILE_TENSORS):
                self._write_file(under, waiting, files)
                memory, held = set(), 0
            own = _alone(x)
            waiting[name] = own.clone() if own.nbytes and own.data_ptr() in memory else own
            memory.add(own.data_ptr())
            held += x.nbytes
        if waiting:
            self._write_file(under, waiting, files)
        return files

    def tensors(self, under: str, files: Any) -> SavedTensors:
        """Return the tensors that `write_tensors` wrote. Raises ValueError for anything else than it returned."""
        return SavedTensors(self.path, under, files)

    def write_image(self, name: str, image: Image.Image) -> None:
        """Write an image as PNG. Raises ValueError for one of more than 50 million pixels, which is not read either."""
        refuse_pixels(image)
        with self._writing(name) as beside:
            image.save(beside, format="PNG")

    def read_image(self, name: str) -> Image.Image:
        """Read a PNG file. Raises ValueError for one that is missing or too large, and for anything else."""
        path = file_within(self.path, name)
        try:
            with Image.open(path, formats=("PNG",)) as image:
                refuse_pixels(image)
                image.load()
                found = image.copy()
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as an image: {short_repr(str(error))}") from error
        found.info = {}
        return found

    def copy_to(self, path: str | Path) -> Path:
        """Copy the files of the run to another folder, ``run.json`` last; return the path."""
        with RunFolder.begun(path) as to:
            for own in (own for pattern in LAYOUT for own in sorted(self.path.glob(pattern))):
                name = own.relative_to(self.path).as_posix()
                found = file_within(self.path, name)
                with to._writing(name) as beside:
                    shutil.copyfile(found, beside)
            return to.path

    def _write_file(self, under: str, waiting: dict[str, Tensor], files: dict[str, str]) -> None:
        file = f"tensors-{len(set(files.values())):04d}.safetensors"
        with self._writing(f"{under}/{file}") as beside:
            save_file(waiting, beside)
        files.update(dict.fromkeys(waiting, file))
        waiting.clear()

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        path = self.path / name
        try:
            make_folders(path.parent)
            with write_atomically(path) as beside:
                yield beside
        except OSError as error:
            raise NotWritten(error.errno, f"{str(path)!r} cannot be written: {error.strerror or error}") from error
        except SafetensorError as error:  # which is none, also where the disk is full
            raise NotWritten(None, f"{str(path)!r} cannot be written: {error}") from error


def folder_of_hook(number: int) -> str:
    """Return the name of the folder of a hook's records.

    >>> folder_of_hook(3)
    'hooks/03'
    """
    return f"hooks/{number:02d}"


def _in_use(path: str | Path) -> ValueError:
    return ValueError(f"the folder {str(path)!r} has something in it: every run is saved to a folder of its own")


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not empty, or never made
            folder.rmdir()


def _too_much(text: bytes) -> str:
    """Say why a text is more JSON than a file may hold; ``""`` if it is not. No value is made for it."""
    if len(text) > MOST_JSON_BYTES:
        return f"it is longer than {MOST_JSON_BYTES / 1e6:.0f} MB"
    entries = sum(map(text.count, (b",", b"[", b"{")))
    return f"it has {entries} entries, and may have {MOST_JSON_ENTRIES}" if entries > MOST_JSON_ENTRIES else ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def refuse_pixels(image: Image.Image) -> None:
    """Raise ValueError for an image that would be too large to read."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"an image of {image.height}×{image.width} is larger than {MOST_PIXELS} pixels")


def _alone(x: Tensor) -> Tensor:
    """Return a tensor as a file holds it: contiguous, on the CPU, and with its memory to itself."""
    x = x.detach().cpu().resolve_conj().resolve_neg().contiguous()  # a file knows neither of these
    return x.clone() if x.untyped_storage().nbytes() != x.nbytes else x
