"""Write frames as GIF or MP4, with diffusers' own writers; a file is written completely or not at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from diffusers.utils import export_to_gif, export_to_video
from PIL.Image import Image

from sdprobe.core.atomic_file import write_atomically

NEEDED = ("imageio", "imageio_ffmpeg")


def write_gif(frames: Sequence[Image], path: Path, fps: int) -> Path:
    """Write frames as a GIF that repeats."""
    with write_atomically(path, ".gif") as beside:
        export_to_gif(list(frames), str(beside), fps=fps)
    return path


def write_mp4(frames: Sequence[Image], path: Path, fps: int) -> Path:
    """Write frames as MP4. Raises ImportError if the writer is not installed."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ImportError(f"an MP4 needs {' and '.join(missing)}: pip install 'sdprobe[video]', or write a GIF")
    with write_atomically(path, ".mp4") as beside:
        export_to_video(list(frames), str(beside), fps=fps)
    return path
