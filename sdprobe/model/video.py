"""Frames as files, by diffusers' own writers; a file takes its place only once it is whole."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffusers.utils import export_to_gif, export_to_video
from PIL.Image import Image

NEEDED = ("imageio", "imageio_ffmpeg")


def write_gif(frames: Sequence[Image], path: Path, fps: int) -> Path:
    """Frames as a GIF that repeats."""
    with _beside(path, ".gif") as temporary:
        export_to_gif(list(frames), temporary, fps=fps)
    return path


def write_mp4(frames: Sequence[Image], path: Path, fps: int) -> Path:
    """Frames as MP4. Raises ImportError where what writes it is not installed."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ImportError(f"an MP4 needs {' and '.join(missing)}: pip install 'sdprobe[video]', or write a GIF")
    with _beside(path, ".mp4") as temporary:
        export_to_video(list(frames), temporary, fps=fps)
    return path


@contextmanager
def _beside(path: Path, suffix: str) -> Iterator[str]:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=suffix)
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
