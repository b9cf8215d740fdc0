"""`ShareOfPlaces`: the places of the picture where a map is highest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sdprobe.core.grid import Grid, said_grid
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site
from sdprobe.plot.frame_groups import frame_groups


@dataclass(frozen=True, eq=False)
class ShareOfPlaces:
    """The share of places with the highest numbers of an order, at every grid.

    >>> import torch
    >>> order = torch.tensor([[0.0, 1.0], [3.0, 2.0]])
    >>> ShareOfPlaces.of(order, 0.5).at((2, 2)).int()
    tensor([[0, 0],
            [1, 1]], dtype=torch.int32)

    Args:
        order: a number for each place. Without frames, the share is that of each frame of a video, the same places of
            all; with frames it is that of all places of the video, more of them in one frame than in another.
        share: how many of the places, from 0 to 1.
    """

    order: Float[Tensor, "*frames h w"]
    share: float

    @classmethod
    def of(cls, order: Any, share: Any) -> ShareOfPlaces:
        """Return the share of an order that a user gave.

        Raises TypeError for an order that is not numbers, and ValueError for one that is not ``[h, w]``, or
        ``[frames, h, w]`` of a video, or not finite, and for a share that is not from 0 to 1.
        """
        try:
            numbers = torch.as_tensor(order).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"order is a number for each place, [h, w], such as heat_map.values, not {short_repr(order)}"
            ) from None
        if numbers.ndim not in (2, 3) or not numbers.numel() or numbers.is_complex() or not numbers.isfinite().all():
            raise ValueError(
                f"order is a finite number for each place, [h, w], or [frames, h, w] of a video, not "
                f"{list(numbers.shape)} of them"
            )
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= 1:
            raise ValueError(f"share is how many of the places, from 0 to 1, not {share!r}")
        return cls(numbers.float(), float(share))

    def chosen(self, site: Site) -> Bool[Tensor, " places"]:
        """Return which places of a site are chosen. Raises ValueError where the places are no grid like the order."""
        height, width = self.order.shape[-2:]
        if site.grid is None or height * site.grid[-1] != width * site.grid[-2]:
            grid = "are no grid" if site.grid is None else f"are {said_grid(site.grid)}"
            raise ValueError(
                f"the order is {height}×{width} and the places of {site.name} {grid}: give an order with the picture's "
                f"ratio of height to width, or leave this module out"
            )
        *frames, h, w = site.grid
        if self.order.ndim == 2:
            return self.at((h, w)).flatten().repeat(math.prod(frames))  # in a video the same of every frame
        if not frames:
            raise ValueError(
                f"the order has {len(self.order)} frames, and the places of {site.name} are those of an image, "
                f"{said_grid(site.grid)}: give an order [h, w]"
            )
        return self.at(site.grid).flatten()

    def at(self, grid: Grid) -> Bool[Tensor, "*frames h w"]:
        """Return which places of a grid are chosen. Of places with equal numbers the first are, in reading order.

        The order is averaged over the area of each place of a coarser grid, and interpolated at a finer one. That of
        all frames of a video is averaged over the frames of each latent frame.
        """
        order, size = self.order, grid[-2:]
        if size != tuple(order.shape[-2:]):
            how = {"mode": "area"} if size[0] < order.shape[-2] else {"mode": "bilinear", "align_corners": False}
            each = F.interpolate(order.reshape(-1, 1, *order.shape[-2:]), size, **how)
            order = each.view(*order.shape[:-2], *size)
        if len(grid) == 3 and len(order) != grid[0]:
            order = _at_latent_frames(order, grid[0])
        count = round(self.share * math.prod(grid))
        first = order.flatten().sort(descending=True, stable=True).indices[:count]
        found = torch.zeros(grid, dtype=torch.bool)
        found.view(-1)[first] = True
        return found


def _at_latent_frames(order: Float[Tensor, "frames h w"], frames: int) -> Float[Tensor, "of h w"]:
    """Return the mean over the frames of each latent frame. Raises ValueError for fewer frames than latent frames."""
    if len(order) < frames:
        raise ValueError(
            f"the order has {len(order)} frames: give as many as the places of the picture have, {frames}, or as the "
            f"video has"
        )
    groups = torch.tensor(frame_groups(len(order), frames))
    return torch.stack([order[groups == own].mean(0) for own in range(frames)])
