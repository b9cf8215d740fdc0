"""`moved_region`: the same region elsewhere in the picture, as a control for a region that was chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.grid import Grid
from sdprobe.experiments.condition import NotInThisCase


def moved_region(
    mask: Bool[Tensor, "*frames h w"], grids: Iterable[Grid], seed: Sequence[int]
) -> Bool[Tensor, "*frames h w"]:
    """Return a region of the same shape and area, moved at random; what leaves the picture comes in on the other side.

    It is drawn from the moves that leave the least of it where it was.

    It moves by whole places of the coarsest grid, so that it covers as many places of every grid as before; in a video
    by the same move in every frame.

    >>> import torch
    >>> mask = torch.zeros(4, 4, dtype=torch.bool)
    >>> mask[:2, :2] = True
    >>> moved_region(mask, [(4, 4), (2, 2)], seed=[0]).int()
    tensor([[0, 0, 0, 0],
            [0, 0, 0, 0],
            [0, 0, 1, 1],
            [0, 0, 1, 1]], dtype=torch.int32)

    Args:
        mask: the region.
        grids: those at which it will be used.
        seed: of the draw.

    Raises NotInThisCase if it is the same region wherever it is moved, such as the whole picture.
    """
    (height, width), (down, across) = mask.shape[-2:], min((own[-2:] for own in grids), key=math.prod)
    steps = -(-height // down), -(-width // across)
    moves = [(y, x) for y in range(0, height, steps[0]) for x in range(0, width, steps[1])]
    others = [moved for y, x in moves if not torch.equal(moved := mask.roll((y, x), (-2, -1)), mask)]
    if not others:
        raise NotInThisCase(
            f"a control hides the words in another region of the same shape, and this one is the same wherever it is "
            f"moved by the places of the coarsest grid, {down}×{across}: choose a smaller one, or sites of finer grids"
        )
    stays = [int((moved & mask).sum()) for moved in others]
    away = [moved for moved, own in zip(others, stays, strict=True) if own == min(stays)]
    return away[int(np.random.default_rng(list(seed)).integers(len(away)))]
