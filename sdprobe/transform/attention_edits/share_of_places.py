"""`ShareOfPlaces`: the places of the picture where a map is highest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sdprobe.core.grid import said_grid
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site


@dataclass(frozen=True, eq=False)
class ShareOfPlaces:
    """The share of places with the highest numbers of an order, at every grid.

    >>> import torch
    >>> order = torch.tensor([[0.0, 1.0], [3.0, 2.0]])
    >>> ShareOfPlaces.of(order, 0.5).at((2, 2)).int()
    tensor([[0, 0],
            [1, 1]], dtype=torch.int32)

    Args:
        order: a number for each place.
        share: how many of the places, from 0 to 1.
    """

    order: Float[Tensor, "h w"]
    share: float

    @classmethod
    def of(cls, order: Any, share: Any) -> ShareOfPlaces:
        """Return the share of an order that a user gave.

        Raises TypeError for an order that is not numbers, and ValueError for one that is not ``[h, w]`` or not finite,
        and for a share that is not from 0 to 1.
        """
        try:
            numbers = torch.as_tensor(order).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"order is a number for each place, [h, w], such as heat_map.values, not {short_repr(order)}"
            ) from None
        if numbers.ndim != 2 or not numbers.numel() or numbers.is_complex() or not numbers.isfinite().all():
            raise ValueError(f"order is a finite number for each place, [h, w], not {list(numbers.shape)} of them")
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= 1:
            raise ValueError(f"share is how many of the places, from 0 to 1, not {share!r}")
        return cls(numbers.float(), float(share))

    def chosen(self, site: Site) -> Bool[Tensor, " places"]:
        """Return which places of a site are chosen. Raises ValueError where the places are no grid like the order."""
        height, width = self.order.shape
        if site.grid is None or height * site.grid[-1] != width * site.grid[-2]:
            grid = "are no grid" if site.grid is None else f"are {said_grid(site.grid)}"
            raise ValueError(
                f"the order is {height}×{width} and the places of {site.name} {grid}: give an order with the picture's "
                f"ratio of height to width, or leave this module out"
            )
        *frames, h, w = site.grid
        return self.at((h, w)).flatten().repeat(math.prod(frames))  # in a video the same of every frame

    def at(self, grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
        """Return which places of a grid are chosen. Of places with equal numbers the first are, in reading order.

        The order is averaged over the area of each place of a coarser grid, and interpolated at a finer one.
        """
        order = self.order
        if grid != tuple(order.shape):
            how = {"mode": "area"} if grid[0] < len(order) else {"mode": "bilinear", "align_corners": False}
            order = F.interpolate(order[None, None], grid, **how)[0, 0]
        count = round(self.share * math.prod(grid))
        first = order.flatten().sort(descending=True, stable=True).indices[:count]
        found = torch.zeros(grid, dtype=torch.bool)
        found.view(-1)[first] = True
        return found
