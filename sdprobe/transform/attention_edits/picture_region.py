"""`PictureRegion`: a part of the picture, given as a box or as a mask, on any grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PictureRegion:
    """A part of the picture.

    >>> PictureRegion.of((0.5, 0.0, 1.0, 0.5)).on((2, 4))
    tensor([[0., 0., 1., 1.],
            [0., 0., 0., 0.]])
    >>> PictureRegion.of([[True, True, False], [False, False, False]]).on((1, 3))
    tensor([[0.5000, 0.5000, 0.0000]])

    Args:
        given: a box (left, top, right, bottom), as fractions of the picture from 0 to 1, (0, 0) the upper left corner;
            or a mask of booleans over the picture, ``[h][w]``. Numbers and lists, which a file can hold.
    """

    given: Any

    @classmethod
    def of(cls, given: Any, name: str = "region") -> PictureRegion:
        """Return the region that a user gave: a box, or a mask of booleans as a tensor, an array or lists.

        Raises ValueError for what is neither.
        """
        if isinstance(given, Sequence) and all(isinstance(own, (int, float)) for own in given):
            refuse_bad_box(given, name)
            return cls([float(own) for own in given])
        try:
            mask = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            mask = torch.zeros(0)
        if mask.dtype != torch.bool or mask.ndim != 2 or not mask.any():
            said = f"{mask.dtype} {list(mask.shape)}" if isinstance(given, Tensor) else short_repr(given)
            raise ValueError(
                f"the {name} is a box (left, top, right, bottom), as shares of the picture from 0 to 1, or a mask of "
                f"booleans [h, w] with at least one place, not {said}"
            )
        return cls(mask.tolist())

    def on(self, grid: tuple[int, ...]) -> Float[Tensor, "*frames h w"]:
        """Return the fraction, from 0 to 1, of each place of a grid that is in the region; the same in every frame."""
        if not isinstance(self.given[0], list):
            return box_on(self.given, grid)
        *_, h, w = grid
        return F.adaptive_avg_pool2d(torch.tensor(self.given).float()[None], (h, w))[0].expand(grid)

    def at(self, site: Site) -> Float[Tensor, " places"]:
        """Return the fraction of each place of the picture at a site. Raises ValueError where they are no such grid."""
        if site.grid is None:
            raise ValueError(f"the places of {site.name} are no grid over the picture: leave this module out")
        *frames, h, w = site.grid
        return self.on((h, w)).flatten().repeat(math.prod(frames))  # in a video the same of every frame

    def refuse_other_ratio(self, run: Run, name: str) -> None:
        """Raise ValueError for a mask with another ratio of height to width than the picture of a run.

        Coarse grids may have another, as a side that is odd is halved upwards; a mask covers all of each.
        """
        if not isinstance(self.given[0], list):
            return
        (height, width), settings = (len(self.given), len(self.given[0])), run.settings
        largest = max(run.model.grids(settings).values(), key=math.prod)[-2:]
        if not any(height * w == width * h for h, w in (largest, (settings.height, settings.width))):
            raise ValueError(
                f"the {name} is {height}×{width}, and the places of the picture are {largest[0]}×{largest[1]}: give a "
                f"mask with the picture's ratio of height to width, or a box"
            )


def refuse_bad_box(box: Sequence[float], name: str) -> None:
    """Raise ValueError for a box that is not (left, top, right, bottom) within the picture."""
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(
            f"the {name} is (left, top, right, bottom), as shares of the picture from 0 to 1, not {tuple(box)}"
        )


def box_on(box: Sequence[float], grid: tuple[int, ...]) -> Float[Tensor, "*frames h w"]:
    """Return the fraction, from 0 to 1, of each place of a grid that is in a box; the same in every frame."""
    left, top, right, bottom = box
    return torch.outer(_covered(top, bottom, grid[-2]), _covered(left, right, grid[-1])).expand(grid)


def _covered(first: float, past: float, count: int) -> Float[Tensor, " count"]:
    places = torch.arange(count)
    return (torch.clamp(places + 1, max=past * count) - torch.clamp(places, min=first * count)).clamp(0, 1)
