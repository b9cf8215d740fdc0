"""Write a file completely or not at all, also where the process is killed or the machine loses power."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: Path, suffix: str | None = None) -> Iterator[Path]:
    """Give a temporary path in the same folder to write to; move it to `path` after success, delete it after an error.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with write_atomically(path) as beside:
    ...     _ = beside.write_text("1 2 3")
    ...     path.exists()
    False
    >>> path.read_text(), [found.name for found in path.parent.iterdir()]
    ('1 2 3', ['numbers.txt'])

    Args:
        path: the file. An existing file is replaced.
        suffix: the suffix of the temporary path, for writers that depend on it; None for that of `path`.

    Raises:
        FileNotFoundError: if the folder does not exist; raised before anything is written.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name!r} to")
    beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix if suffix is None else suffix}")
    try:
        beside.touch(exist_ok=False)
        mode = beside.stat().st_mode
        yield beside
        if beside.stat().st_mode != mode:  # some writers make a file that nobody else may read
            beside.chmod(stat.S_IMODE(mode))
        _reach_disk(beside)
        beside.replace(path)
        _reach_disk(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def make_folders(path: Path) -> None:
    """Make a folder and those that it is in, and wait until their names are on disk: a file is found only with these.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "hooks" / "00"
    >>> make_folders(folder)
    >>> folder.is_dir()
    True
    """
    missing = [own for own in (path, *path.parents) if not own.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for own in reversed(missing):
        _reach_disk(own.parent)


def _reach_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
