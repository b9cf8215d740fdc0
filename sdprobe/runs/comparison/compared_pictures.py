"""The pictures of two runs beside each other: of videos, their frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL.Image import Image

from sdprobe.core.picture_of import picture_of
from sdprobe.core.run import Run
from sdprobe.plot.heat_film import evenly
from sdprobe.plot.tiled import MOST_FRAMES, tiled

Shown = Image | tuple[Image, ...] | None
"""A picture, the frames of a video, or none."""


def shown_of(run: Run, image: int) -> Shown:
    """Return a picture of a run, or the frames of a video; None for one that there is not."""
    return picture_of(run, image) if image < len(run.images) else None


def pictures_in(shown: Shown) -> tuple[Image, ...]:
    """Return the frames of a video; a picture is one, and nothing is none."""
    return shown if isinstance(shown, tuple) else () if shown is None else (shown,)


def why_not_subtracted(a: Shown, b: Shown) -> str:
    """Return why two pictures, or two videos, cannot be subtracted, in words; empty if they can."""
    first, second = pictures_in(a), pictures_in(b)
    if not first or not second:
        return "a run that has not come to its end, or gave none, has none"
    if isinstance(a, tuple) != isinstance(b, tuple):
        return "one is a picture and the other a video, so shown, but not subtracted"
    if len(first) != len(second):
        return f"videos of {len(first)} and {len(second)} frames, so shown, but not subtracted"
    if first[0].size != second[0].size:
        sizes = " and ".join(f"{own[0].height}×{own[0].width}" for own in (first, second))
        return f"of other sizes, {sizes}, so shown, but not subtracted"
    return ""


def frame_differences(a: Shown, b: Shown) -> Float[np.ndarray, "frames h w"] | None:
    """Return the absolute difference of each two frames, averaged over the colours, in [0, 1]."""
    if why_not_subtracted(a, b):
        return None
    pairs = zip(pictures_in(a), pictures_in(b), strict=True)
    return np.stack([np.abs(_numbers(x) - _numbers(y)).mean(-1) for x, y in pairs])


def frames_shown(frames: int, differences: Float[np.ndarray, "frames h w"] | None) -> list[int]:
    """Return the numbers of the frames that are shown, of which one is that with the largest difference.

    >>> differences = np.zeros((40, 1, 1), np.float32)
    >>> differences[21] = 1
    >>> chosen = frames_shown(40, differences)
    >>> len(chosen), chosen[0], chosen[-1], 21 in chosen
    (16, 0, 39, True)
    """
    chosen = evenly(frames, MOST_FRAMES)
    if differences is not None:
        most = int(differences.max((1, 2)).argmax())
        nearest = min(range(len(chosen)), key=lambda i: abs(chosen[i] - most))
        chosen[nearest] = most
    return chosen


def joined(values: Float[np.ndarray, "frames h w"], chosen: Sequence[int], fill: float = 0) -> Float[np.ndarray, "H W"]:
    """Return the chosen frames of some values as one picture; one frame is returned as it is."""
    return values[0] if len(values) == 1 else tiled(values[list(chosen)], fill=fill)


def _numbers(picture: Image) -> Float[np.ndarray, "h w 3"]:
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
