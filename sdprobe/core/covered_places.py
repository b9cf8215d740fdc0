"""`covered_by_half`: the places of a grid that a mask over the picture covers by at least half."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.grid import Grid


def covered_by_half(mask: Bool[Tensor, "*images h w"], grid: Grid) -> Bool[Tensor, "*images ..."]:
    """Return which places of a grid a mask, of the same ratio of height to width, covers by at least half.

    Of a video, the same places of every frame.

    >>> import torch
    >>> mask = torch.zeros(4, 4, dtype=torch.bool)
    >>> mask[:2, :3] = True
    >>> covered_by_half(mask, (2, 2))
    tensor([[ True,  True],
            [False, False]])
    """
    every = mask.reshape(-1, 1, *mask.shape[-2:])
    *frames, h, w = grid
    covered = (F.adaptive_avg_pool2d(every.float(), (h, w)) >= 0.5).view(*mask.shape[:-2], *[1] * len(frames), h, w)
    return covered.expand(*mask.shape[:-2], *grid)
