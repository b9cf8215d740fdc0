"""Files that appear whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: Path, suffix: str | None = None) -> Iterator[Path]:
    """A path beside the file's to write to; it takes the file's place once all is written, or goes again.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with write_atomically(path) as beside:
    ...     _ = beside.write_text("1 2 3")
    ...     path.exists()
    False
    >>> path.read_text(), [found.name for found in path.parent.iterdir()]
    ('1 2 3', ['numbers.txt'])

    Args:
        path: the file; one that is there is replaced.
        suffix: of the path beside, for writers that go by it; None for the file's own.

    Raises:
        FileNotFoundError: for a file in a folder that is not there, before anything is written.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name!r} to")
    beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix if suffix is None else suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
