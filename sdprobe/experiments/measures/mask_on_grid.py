"""`mask_on_grid`: a mask over the picture, at another size."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.covered_places import covered_by_half


def mask_on_grid(mask: Bool[Tensor, "h w"], grid: tuple[int, int]) -> Bool[Tensor, "gh gw"]:
    """Return a mask at another size: a place is chosen if the mask covers at least half of it.

    This is the rule by which `sdprobe.Patch` and `sdprobe.Ablate` choose places.

    >>> import torch
    >>> mask = torch.zeros(4, 4, dtype=torch.bool)
    >>> mask[:2, :3] = True
    >>> mask_on_grid(mask, (2, 2))
    tensor([[ True,  True],
            [False, False]])

    Args:
        mask: the mask.
        grid: the size ``(h, w)``.

    Raises:
        ValueError: for a mask whose ratio of height to width is another, and for one with places that covers no place
            of the grid by half.
    """
    height, width = mask.shape
    if height * grid[1] != width * grid[0]:
        raise ValueError(
            f"the region is a mask of {height}×{width}, which does not fit {grid[0]}×{grid[1]}: give a mask with the "
            f"picture's ratio of height to width"
        )
    found = covered_by_half(mask, grid)
    if mask.any() and not found.any():
        raise ValueError(
            f"the region covers no place of the {grid[0]}×{grid[1]} by half: choose a larger one, or measure pixels"
        )
    return found
