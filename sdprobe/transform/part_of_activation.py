"""`PartOfActivation`: the places, channels or heads of an activation that a transform replaces."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from sdprobe.core.covered_places import covered_by_half
from sdprobe.core.grid import said_grid
from sdprobe.core.rows import Row
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site, is_map


@dataclass(frozen=True, eq=False)
class PartOfActivation:
    """A part of every activation; what is None is no limit, and limits combine.

    >>> import torch
    >>> left = torch.zeros(64, 64, dtype=torch.bool)
    >>> left[:, :32] = True
    >>> PartOfActivation(places=left, channels=[0, 3]).whole, PartOfActivation().whole
    (False, True)

    Args:
        places: a mask over the picture, ``[h, w]``, or one for each image, ``[images, h, w]``, of booleans and of any
            size with the picture's aspect ratio. At each site a place is chosen if the mask covers at least half of it.
        channels: numbers of channels: on axis 1 of ``[rows, channels, h, w]``, else on the last axis.
        heads: numbers of attention heads, where the width is heads side by side (`Site.heads` is not 0).

    Raises:
        TypeError: for a mask that is not of booleans, and for channels or heads that are not whole numbers.
        ValueError: for a mask of another number of axes, for a choice of nothing, and for channels with heads.
    """

    places: Any = None
    channels: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.channels is not None and self.heads is not None:
            raise ValueError("heads are ranges of channels: give channels or heads, not both")
        for name, numbers in (("channels", self.channels), ("heads", self.heads)):
            if numbers is not None:
                _refuse_not_numbers(name, numbers)
        if self.places is not None:
            _mask_of(self.places)

    @property
    def whole(self) -> bool:
        """Whether every entry is chosen."""
        return self.places is None and self.channels is None and self.heads is None

    def put(self, new: Shaped[Tensor, "rows ..."], x: Shaped[Tensor, "rows ..."], site: Site) -> Tensor:
        """Return the activation with this part of it taken from another tensor of the same shape.

        Raises ValueError if the part does not exist at the site, such as places where there is no grid.
        """
        return new if self.whole else torch.where(self.chosen(x, site), new, x)

    def chosen(self, x: Shaped[Tensor, "rows ..."], site: Site) -> Bool[Tensor, "#rows ..."]:
        """Return which entries are chosen, as a mask that broadcasts to the activation."""
        found = torch.ones((1,) * x.ndim, dtype=torch.bool, device=x.device)
        if self.channels is not None or self.heads is not None:
            found = found & self._in_width(x, site)
        if self.places is not None:
            found = found & self._in_places(x, site)
        return found

    def _in_width(self, x: Tensor, site: Site) -> Bool[Tensor, "#rows ..."]:
        axis = width_axis(x, site)
        name, numbers, size = "channels", self.channels, 1
        count = width = x.shape[axis]
        if self.heads is not None:
            if not site.heads:
                raise ValueError(
                    f"heads cannot be chosen at {said_of(site)}: its width is not divided into heads. They stand side "
                    f'by side in what the last layer of an attention takes: modules="*.to_out.0", sides=("input",)'
                )
            name, numbers, count, size = "heads", self.heads, site.heads, width // site.heads
        assert numbers is not None  # asked for only then
        if beyond := [number for number in numbers if not 0 <= number < count]:
            raise ValueError(f"{said_of(site)} has {count} {name}, counted from 0, and no number {beyond[0]}")
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[list(numbers)] = True
        shape = [width if own == axis else 1 for own in range(x.ndim)]
        return chosen.repeat_interleave(size).view(shape).to(x.device)

    def _in_places(self, x: Tensor, site: Site) -> Bool[Tensor, "#rows ..."]:
        if site.grid is None or x.ndim < 3:
            raise ValueError(
                f"places cannot be chosen at {said_of(site)}, {list(x.shape)}: its positions are no grid over the "
                f'picture. Name the tensors that have one, such as streams=("image",)'
            )
        mask = self._masks(x, site).to(x.device)
        if is_map(x, site):
            return mask[:, None]
        found = torch.zeros(len(mask), x.shape[1], 1, dtype=torch.bool, device=x.device)
        found[:, site.image] = mask.flatten(1)[..., None]
        return found

    def _masks(self, x: Tensor, site: Site) -> Bool[Tensor, "#rows *frames h w"]:
        """Return the mask at the site's grid: one for all rows, or one for each row."""
        mask, grid = _mask_of(self.places), site.grid
        assert grid is not None  # refused before
        height, width = mask.shape[-2:]
        if height * grid[-1] != width * grid[-2]:
            raise ValueError(
                f"the mask is {height}×{width} and the places of {said_of(site)} are {said_grid(grid)}: give a mask "
                f"with the picture's ratio of height to width"
            )
        every = mask.view(-1, height, width)
        resized = covered_by_half(every, grid)
        if lost := [k for k in range(len(every)) if every[k].any() and not resized[k].any()]:
            raise ValueError(
                f"the mask{f' of image {lost[0]}' * (mask.ndim == 3)} covers no place of the {said_grid(grid)} of "
                f"{said_of(site)} by half: give a larger mask, or leave this module out"
            )
        if mask.ndim == 2:
            return resized
        if len(mask) != (images := site.run.settings.images):
            raise ValueError(f"there are masks for {len(mask)} images, and this run has {images}")
        return resized[[row.image for row in rows_in(x, site)]]


def width_axis(x: Shaped[Tensor, "rows ..."], site: Site) -> int:
    """Return the axis of an activation's channels: 1 of ``[rows, channels, h, w]``, else the last."""
    return 1 if is_map(x, site) else x.ndim - 1


def rows_in(x: Shaped[Tensor, "rows ..."], site: Site) -> tuple[Row, ...]:
    """Return what each entry of an activation's first axis is. Raises ValueError if that axis is not the rows."""
    if len(site.rows) != len(x):
        raise ValueError(
            f"{said_of(site)} is {list(x.shape)}, and there are {len(site.rows)} rows: its first axis is not the rows, "
            f"so no row can be told from another there"
        )
    return site.rows


def said_of(site: Site) -> str:
    """Return a site of an activation in words."""
    stream = "" if site.stream in ("", "hidden") else f" {site.stream!r}"
    call = f" in its call {site.call}" if site.call else ""
    return f"the {site.side or 'output'}{stream} of {site.name}{call}"


def _mask_of(places: Any) -> Bool[Tensor, "*images h w"]:
    if callable(getattr(places, "mask", None)):
        raise TypeError(f"places are a mask of booleans; {places!r} makes one: places=heat_map.mask(threshold=0.5)")
    mask = torch.as_tensor(places)
    if mask.dtype != torch.bool:
        raise TypeError(f"places are a mask of booleans, such as values > 0.5, not numbers of {mask.dtype}")
    if mask.ndim not in (2, 3) or not mask.any():
        raise ValueError(
            f"places are a mask [h, w], or [images, h, w], with at least one place, not {list(mask.shape)} with "
            f"{int(mask.sum())}"
        )
    return mask


def _refuse_not_numbers(name: str, numbers: Any) -> None:
    try:
        count = len([operator.index(number) for number in numbers])
    except TypeError:
        raise TypeError(f"{name} are whole numbers such as [0, 3], not {short_repr(numbers)}") from None
    if not count:
        raise ValueError(f"{name}=[] chooses nothing: leave it out for all {name}")
