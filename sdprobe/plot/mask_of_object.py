"""`mask_of_object`: a mask that somebody gives, as one that a map can be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor


def mask_of_object(
    mask: Shaped[Any, "*frames h w"], shape: Sequence[int], picture: tuple[int, int] | None, frames: int, device: Any
) -> Bool[Tensor, "*frames h w"]:
    """Return a mask as a tensor.

    Args:
        mask: True, or another number than 0, at the object's places.
        shape: ``[h, w]`` or ``[frames, h, w]``, of the map.
        picture: height and width of the picture; None where there is none.
        frames: how many the video has; 0 where there is none.
        device: that of the map.

    Raises ValueError for a mask whose shape does not match the map or the picture.
    """
    truth = torch.as_tensor(mask, device=device).bool()
    if truth.ndim != len(shape) or not truth.numel():
        if len(shape) == 3:
            raise ValueError(
                f"a mask of a video is [frames, h, w], a number for each place of each frame, not {list(truth.shape)}"
            )
        raise ValueError(f"a mask is [h, w], a number for each place, not {list(truth.shape)}")
    own = (shape[-2], shape[-1])
    whole, of = (picture, "the picture") if picture else (own, "the map")
    height, width = truth.shape[-2:]
    if (height, width) != own and height * whole[1] != width * whole[0]:
        raise ValueError(
            f"the mask is {height}×{width}, and {of} is {whole[0]}×{whole[1]}: give a mask of that size, or of "
            f"another with the same ratio of height to width"
        )
    if truth.ndim == 3 and len(truth) not in (shape[0], frames):
        of_video = f", or each of the {frames} of the video" if frames else ""
        raise ValueError(f"the mask has {len(truth)} frames: give one for each of the {shape[0]} of the map{of_video}")
    return truth
