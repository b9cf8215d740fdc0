"""`file_within`: a file in the folder of a run, and no other."""

from __future__ import annotations

from pathlib import Path


def file_within(folder: Path, name: str) -> Path:
    """Return the path of a regular file in a folder.

    A link is followed only within the folder, so that a folder of somebody else shows nothing of one's own machine.
    What is no regular file, such as a pipe on which a reader would wait, is refused.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "passwords").symlink_to("/etc/passwd")
    >>> file_within(folder, "passwords")
    Traceback (most recent call last):
    ValueError: '.../passwords' leads out of the folder of the run, and is not followed

    Args:
        folder: the folder of the run.
        name: the path in it, with slashes.

    Raises ValueError if there is no such file.
    """
    said = repr(str(folder / name))
    try:
        root = folder.resolve(strict=True)
        path = (root / name).resolve(strict=True)
    except FileNotFoundError:
        raise ValueError(f"{name} is missing in {str(folder)!r}: the run was not saved completely") from None
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a file where a folder should be
        raise ValueError(f"{said} cannot be found: {error}") from error
    if not path.is_relative_to(root):
        raise ValueError(f"{said} leads out of the folder of the run, and is not followed")
    if not path.is_file():
        raise ValueError(f"{said} is no file")
    return path
