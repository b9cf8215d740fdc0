"""`tiled`: the frames of a video side by side, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Num
from numpy.typing import NDArray
from PIL import Image

MOST_FRAMES = 16
"""Of a video at most so many frames are shown side by side, where nothing else says how many."""


def tiled(
    frames: Num[np.ndarray, "frames h w *colours"], fill: int | float | None = None
) -> Num[np.ndarray, "H W *colours"]:
    """Return frames side by side in rows, in as many columns as rows, or one more.

    >>> tiled(np.arange(3).reshape(3, 1, 1))
    array([[0, 1],
           [2, 0]])

    Args:
        frames: maps, or pictures.
        fill: what stands where no frame is left; None for the smallest value.
    """
    count, h, w, *colours = frames.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    whole = np.full((rows * columns, h, w, *colours), frames.min() if fill is None else fill, dtype=frames.dtype)
    whole[:count] = frames
    found: NDArray[np.generic] = whole.reshape(rows, columns, h, w, *colours).swapaxes(1, 2)
    return found.reshape(rows * h, columns * w, *colours)


def tiled_pictures(frames: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of one size side by side in rows; what is left is white. One picture is returned as it is."""
    if len(frames) == 1:
        return frames[0]
    return Image.fromarray(tiled(np.stack([np.asarray(frame.convert("RGB")) for frame in frames]), fill=255))
