"""`HeatTiles`: heat maps as 8-bit greyscale tiles, each different one held once, packed into PNG sheets."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from sdprobe.plot.notebook import as_png

SIDE = 32
"""A sheet has at most this many tiles across and down, so that a browser unpacks a few at a time."""


@dataclass(frozen=True)
class TilePlace:
    """Where a map is kept, and the range of its values.

    Args:
        tile: the number of its tile; -1 where its values are not finite.
        low: the value that is 0 in the tile.
        high: the value that is 255 in the tile.
    """

    tile: int
    low: float
    high: float


@dataclass(frozen=True)
class TileSheet:
    """A PNG of tiles of one size, row by row.

    Args:
        height: of a tile.
        width: of a tile.
        across: how many tiles are in a row.
        numbers: the number of each tile in the sheet.
        png: the file, as base64.
    """

    height: int
    width: int
    across: int
    numbers: tuple[int, ...]
    png: str


class HeatTiles:
    """Heat maps as tiles: 0 is the smallest value of a map and 255 the largest.

    >>> import numpy as np
    >>> tiles = HeatTiles()
    >>> tiles.add(np.array([[0.1, 0.3]])), tiles.add(np.array([[1.0, 2.0]])).tile
    (TilePlace(tile=0, low=0.1..., high=0.3...), 0)
    >>> [(sheet.height, sheet.width, sheet.numbers) for sheet in tiles.sheets()]
    [(1, 2, (0,))]
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[tuple[int, ...], bytes], int] = {}

    def add(self, values: Float[np.ndarray, "h w"]) -> TilePlace:
        """Keep a map, and return its place. Maps that are alike but for their range have the same tile."""
        values = np.asarray(values, dtype=np.float32)
        if not np.isfinite(values).all():
            return TilePlace(-1, float("nan"), float("nan"))
        low, high = float(values.min()), float(values.max())
        span = (values - np.float32(low)) / np.float32(high - low) if high > low else np.zeros_like(values)
        tile = np.round(255 * span).astype(np.uint8)
        number = self._numbers.setdefault((tile.shape, tile.tobytes()), len(self._numbers))
        return TilePlace(number, low, high)

    def sheets(self) -> list[TileSheet]:
        """Return the sheets that hold every tile."""
        by_shape: dict[tuple[int, ...], list[tuple[int, bytes]]] = {}
        for (shape, tile), number in self._numbers.items():
            by_shape.setdefault(shape, []).append((number, tile))
        return [
            _sheet(shape, own[first : first + SIDE**2])
            for shape, own in by_shape.items()
            for first in range(0, len(own), SIDE**2)
        ]


def _sheet(shape: tuple[int, ...], own: list[tuple[int, bytes]]) -> TileSheet:
    height, width = shape
    across = min(SIDE, len(own))
    down = -(-len(own) // across)
    grey = np.zeros((down * height, across * width), dtype=np.uint8)
    for i, (_, tile) in enumerate(own):
        y, x = divmod(i, across)
        grey[y * height : (y + 1) * height, x * width : (x + 1) * width] = np.frombuffer(tile, np.uint8).reshape(shape)
    png = b64encode(as_png(Image.fromarray(grey))).decode("ascii")
    return TileSheet(height, width, across, tuple(number for number, _ in own), png)
