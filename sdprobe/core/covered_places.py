"""`covered_by_half`: the places of a grid that a mask over the picture covers by at least half."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor


def covered_by_half(mask: Bool[Tensor, "*images h w"], grid: tuple[int, ...]) -> Bool[Tensor, "*images_and_grid"]:
    """Return which places of a grid a mask, of the same ratio of height to width, covers by at least half.

    On the grid of a video, ``(frames, h, w)``, they are the same in every frame.

    >>> import torch
    >>> mask = torch.zeros(4, 4, dtype=torch.bool)
    >>> mask[:2, :3] = True
    >>> covered_by_half(mask, (2, 2))
    tensor([[ True,  True],
            [False, False]])
    """
    every = mask.reshape(-1, 1, *mask.shape[-2:])
    *frames, h, w = grid
    found = (F.adaptive_avg_pool2d(every.float(), (h, w)) >= 0.5).view(*mask.shape[:-2], *[1] * len(frames), h, w)
    return found.expand(*mask.shape[:-2], *grid)
