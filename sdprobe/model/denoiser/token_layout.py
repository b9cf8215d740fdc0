"""`Layout`: the positions of image and text on the axes of an attention call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from sdprobe.core.grid import Grid as Grid


class Parts(NamedTuple):
    """The image's grid, and the slices of image and text, in one call; None for a missing part."""

    grid: Grid | None
    image: slice
    text: slice | None


@dataclass(frozen=True)
class Layout:
    """The token layout of a run's denoiser.

    Args:
        grids: ``(h, w)``, ``(t, h, w)`` in a video, by number of image positions, for every size that the image has
            inside the network.
        text_first: whether the text comes before the image if both are on one axis.
        beside: the number of further positions, which stand after those of the image: of other pictures, or padding.
        registers: the number of tokens that are of no word, which stand before those of the text.
        text_tokens: the number of tokens of text, where those of a picture stand before them; None where none do.
        one_stream: whether modules of joint attention take text and image on one axis, not as two tensors.
    """

    grids: Mapping[int, Grid] = field(default_factory=dict)
    text_first: bool = False
    beside: int = 0
    registers: int = 0
    text_tokens: int | None = None
    one_stream: bool = False

    def text_in(self, tokens: int) -> slice:
        """Return which of so many tokens are those of the text, which stand alone or after those of a picture."""
        return slice(self.registers if self.text_tokens is None else max(tokens - self.text_tokens, 0), tokens)

    def grid_of(self, x: Tensor) -> Grid | None:
        """Return the grid of a module's output, or None.

        It is ``[rows, channels, h, w]``, ``[rows, channels, frames, h, w]`` or ``[rows, positions, width]``.
        """
        if x.ndim == 4:
            return int(x.shape[-2]), int(x.shape[-1])
        if x.ndim == 5:
            return tuple(map(int, x.shape[2:]))
        return self.grids.get(x.shape[1] - self.beside) if x.ndim == 3 else None

    def reference_after(self, image: slice) -> slice | None:
        """Return the range of the places of other pictures, by that of the image's; None if there are none there."""
        return slice(image.stop, image.stop + self.beside) if self.beside and image.stop else None

    def of(self, kind: str, queries: int, keys: int) -> Parts:
        """Return the parts of a call of this kind with these numbers of queries and keys."""
        if kind == "text":
            return Parts(None, slice(0, 0), slice(0, keys))
        if kind != "joint":
            places = queries - self.beside
            return Parts(self.grids.get(places), slice(0, places), slice(0, keys) if kind == "cross" else None)
        places, grid = next(iter(self.grids.items()))  # a transformer has one image size only
        texts = keys - places - self.beside
        if self.text_first:
            return Parts(grid, slice(texts, texts + places), slice(self.registers, texts))
        return Parts(grid, slice(0, places), slice(keys - texts + self.registers, keys))
