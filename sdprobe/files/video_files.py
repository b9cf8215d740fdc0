"""Write frames as GIF or MP4; a file is written completely or not at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image

from sdprobe.files.atomic_file import write_atomically

NEEDED = ("imageio", "imageio_ffmpeg")
SIDES = 16  # codecs need the sides of a film to be multiples of this
QUALITY = 5  # of imageio's 0 to 10, as in diffusers' `export_to_video`


def write_gif(frames: Sequence[Image], path: Path, fps: int) -> Path:
    """Write frames as a GIF that repeats."""
    first, *others = frames
    with write_atomically(path, ".gif") as beside:
        first.save(beside, save_all=True, append_images=others, optimize=False, duration=1000 // fps, loop=0)
    return path


def write_mp4(frames: Sequence[Image], path: Path, fps: int) -> Path:
    """Write frames as MP4. Raises ImportError if the writer is not installed."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ImportError(f"an MP4 needs {' and '.join(missing)}: pip install 'sdprobe[video]', or write a GIF")
    import imageio

    with (
        write_atomically(path, ".mp4") as beside,
        imageio.get_writer(str(beside), fps=fps, quality=QUALITY, macro_block_size=SIDES) as writer,
    ):
        for frame in frames:
            writer.append_data(np.asarray(frame.convert("RGB")))
    return path


def whole_side(side: int) -> int:
    """Return a length rounded up to a multiple of 16.

    >>> whole_side(64), whole_side(65)
    (64, 80)
    """
    return -(-side // SIDES) * SIDES
