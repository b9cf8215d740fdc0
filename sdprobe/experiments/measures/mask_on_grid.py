"""`mask_on_grid`: a mask over the picture, or over the frames of a video, at another size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.covered_places import covered_by_half
from sdprobe.core.grid import Grid, said_grid
from sdprobe.experiments.measures.frames_of import groups_of_frames


def mask_on_grid(mask: Bool[Tensor, "*frames h w"], grid: Grid) -> Bool[Tensor, "*grid"]:
    """Return a mask at another size: a place is chosen if the mask covers at least half of it.

    This is the rule by which `sdprobe.Patch` and `sdprobe.Ablate` choose places. A place of the latents of a video is
    the part of all frames that are decoded from it.

    >>> import torch
    >>> mask = torch.zeros(4, 4, dtype=torch.bool)
    >>> mask[:2, :3] = True
    >>> mask_on_grid(mask, (2, 2))
    tensor([[ True,  True],
            [False, False]])
    >>> mask_on_grid(torch.stack([mask, ~mask, ~mask]), (2, 2, 2)).int()
    tensor([[[1, 1],
             [0, 0]],
    <BLANKLINE>
            [[0, 1],
             [1, 1]]], dtype=torch.int32)

    Args:
        mask: the mask. Without frames it is the same of every frame.
        grid: the size ``(h, w)``, or ``(frames, h, w)``.

    Raises:
        ValueError: for a mask whose ratio of height to width is another, for one with places that covers no place
            of the grid by half, and for one of fewer frames than the grid.
    """
    height, width = mask.shape[-2:]
    *frames, h, w = grid
    if height * w != width * h:
        raise ValueError(
            f"the region is a mask of {height}×{width}, which does not fit {h}×{w}: give a mask with the "
            f"picture's ratio of height to width"
        )
    found = covered_by_half(mask, grid) if mask.ndim == 2 else _of_frames(mask, (*frames, h, w))
    if mask.any() and not found.any():
        raise ValueError(
            f"the region covers no place of the {said_grid(grid)} by half: choose a larger one, or measure pixels"
        )
    return found


def _of_frames(mask: Bool[Tensor, "frames h w"], grid: Grid) -> Bool[Tensor, "*grid"]:
    if len(grid) != 3:
        raise ValueError(f"the region is a mask of {len(mask)} frames, and {said_grid(grid)} is a grid of an image")
    covered = F.adaptive_avg_pool2d(mask[:, None].float(), grid[1:])[:, 0]
    groups = torch.tensor(groups_of_frames(len(mask), grid[0]), device=mask.device)
    return torch.stack([covered[groups == own].mean(0) for own in range(grid[0])]) >= 0.5
