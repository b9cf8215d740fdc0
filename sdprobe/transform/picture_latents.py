"""`opened_picture` and `picture_latents`: the clean latents of a picture that a hook was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from PIL import Image
from torch import Tensor


def opened_picture(given: Any) -> Any:
    """Return a picture, opened if it was given as a file's name."""
    return Image.open(given) if isinstance(given, (str, Path)) else given


def picture_latents(picture: Any, model: Any, grid: tuple[int, int]) -> Shaped[Tensor, "images channels *size"]:
    """Return the mean latents of pictures, or latents of this grid as they are.

    Raises ValueError for a model of videos, whose latents have frames.
    """
    if model.default_frames is not None:
        raise ValueError(
            f"a picture to hold a run to is for models of images: {type(model).__name__} makes videos, whose latents "
            f"have frames"
        )
    if isinstance(picture, Tensor) and tuple(picture.shape[-2:]) == grid:
        return picture
    found = model.posterior(model.pixels(picture))
    x0: Tensor = found.scaled(found.mean)
    return x0
