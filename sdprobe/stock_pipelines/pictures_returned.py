"""`pictures_made`: the pictures that a pipeline returns of which no family knows what it makes."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL.Image import Image

from sdprobe.core.run import Settings


def pictures_made(found: Any, settings: Settings) -> tuple[list[Image], int | None]:
    """Return the pictures of a call, of videos all frames, and how many frames each video has; None for images.

    Of arrays and latents there are no pictures. Where a pipeline returns no frames that can be counted, as many are
    said as the call asked for.

    >>> from types import SimpleNamespace
    >>> from PIL import Image
    >>> asked = Settings(("",), ("",), 1, 1.0, 0, "", 8, 8, images_per_prompt=2)
    >>> pictures, frames = pictures_made(SimpleNamespace(frames=[[Image.new("RGB", (8, 8))] * 5] * 2), asked)
    >>> len(pictures), frames
    (10, 5)

    Args:
        found: what the pipeline returned.
        settings: what it was asked for.
    """
    named = [name for name in ("images", "frames") if hasattr(found, name)]
    made = getattr(found, named[0]) if named else found[0] if isinstance(found, tuple) and found else None
    of_videos = settings.frames is not None or named == ["frames"]
    if of_videos and isinstance(made, np.ndarray) and made.ndim == 5:
        return [], made.shape[1]
    if not isinstance(made, list) or len(made) != settings.images:
        return [], settings.frames
    if of_videos and all(isinstance(own, list) for own in made) and len({len(own) for own in made}) == 1:
        frames = [frame for own in made for frame in own]
        return (frames if _are_pictures(frames) else []), len(made[0])
    return (made if _are_pictures(made) else []), settings.frames


def _are_pictures(made: list[Any]) -> bool:
    return all(isinstance(own, Image) for own in made)
