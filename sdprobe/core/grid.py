"""`Grid`: how the places of an image, or of a video, are arranged."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from sdprobe.core.short_repr import short_repr
from sdprobe.core.written_values import count

Grid = tuple[int, ...]
"""``(h, w)`` of an image; ``(t, h, w)`` of a video of t latent frames, whose places stand frame by frame."""

MOST = 4_096  # more on one side than any model has: what a file says is no reason to allocate more


def said_grid(grid: Grid) -> str:
    """Return a grid as it is written.

    >>> said_grid((16, 16)), said_grid((3, 16, 16))
    ('16×16', '3×16×16')
    """
    return "×".join(map(str, grid))


def named_grid(grid: Grid) -> str:
    """Return a grid as it stands in the name of a file or a variable.

    >>> named_grid((3, 16, 16))
    '3x16x16'
    """
    return "x".join(map(str, grid))


def read_grid(written: Any) -> Grid:
    """Return the grid that a file names. Raises ValueError for anything else."""
    if not isinstance(written, list) or len(written) not in (2, 3):
        raise ValueError(f"{short_repr(written)} is no grid, which is (h, w), or (t, h, w) of a video")
    grid = tuple(count(side, MOST) for side in written)
    if not prod(grid):
        raise ValueError(f"a grid of {said_grid(grid)} has no places")
    return grid


def place_in(grid: Grid, at: Sequence[int]) -> int:
    """Return the number of a place of a grid.

    >>> place_in((8, 8), (1, 2)), place_in((3, 8, 8), (2, 1, 2))
    (10, 138)

    Raises ValueError for a place outside it.
    """
    if len(at) != len(grid) or not all(0 <= own < side for own, side in zip(at, grid, strict=True)):
        raise ValueError(f"position {tuple(at)} lies outside the grid of {said_grid(grid)}")
    number = 0
    for own, side in zip(at, grid, strict=True):
        number = number * side + own
    return number


def image_grid(grid: Grid, of: str) -> tuple[int, int]:
    """Return a grid of an image as ``(h, w)``.

    >>> image_grid((3, 16, 16), "PictureRegion")
    Traceback (most recent call last):
    ValueError: PictureRegion is for images: here places are those of a video, 3 frames of 16×16

    Args:
        grid: of a site.
        of: what works with images only, in the user's words.

    Raises ValueError for the grid of a video.
    """
    if len(grid) != 2:
        frames, *size = grid
        raise ValueError(
            f"{of} is for images: here places are those of a video, {frames} frames of {said_grid(tuple(size))}"
        )
    return grid[0], grid[1]
