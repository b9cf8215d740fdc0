"""`resize` and `at_largest`: maps at another size."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(values: Float[Tensor, "*more h w"], size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resize maps; a map that already has the size is returned unchanged. Of a video, each frame is resized by itself.

    >>> import torch
    >>> resize(torch.ones(3, 2, 2), (4, 4)).shape
    torch.Size([3, 4, 4])
    """
    if tuple(values.shape[-2:]) == size:
        return values
    flat = values.reshape(-1, 1, *values.shape[-2:])
    corners = False if mode in ("bilinear", "bicubic") else None
    return F.interpolate(flat, size=size, mode=mode, align_corners=corners).reshape(*values.shape[:-2], *size)


def at_largest(maps: Iterable[Float[Tensor, "*more _ _"]]) -> Float[Tensor, "maps *more h w"]:
    """Return maps of one picture resized bilinearly to the largest of them, one after the other.

    >>> import torch
    >>> at_largest([torch.ones(2, 2), torch.zeros(4, 4)]).shape
    torch.Size([2, 4, 4])

    Raises ValueError for maps of videos with different numbers of frames.
    """
    every = list(maps)
    if len(others := {tuple(own.shape[:-2]) for own in every}) > 1:
        frames = " and ".join("×".join(map(str, shape)) or "1" for shape in sorted(others))
        raise ValueError(
            f"maps of {frames} frames of a video cannot be averaged, as only height and width are resized: record the "
            f"sites of one number of frames, with modules=(...) or grids=[(frames, h, w)]"
        )
    height, width = max((own.shape[-2:] for own in every), key=lambda size: size[0] * size[1])
    return torch.stack([resize(own, (height, width), "bilinear") for own in every])
