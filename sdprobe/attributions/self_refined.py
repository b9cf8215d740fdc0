"""`SelfRefined`: the mean attention to a word, spread along self-attention."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sdprobe.attributions.mean import Mean
from sdprobe.core.attribution import PARTS, Attribution, Word, WordAsked, record_of
from sdprobe.core.compose import Hooks
from sdprobe.core.grid import Grid, said_grid
from sdprobe.core.run import Run
from sdprobe.observe.self_attention_maps import SelfAttentionMaps
from sdprobe.plot.map_to_mask import spread_over
from sdprobe.plot.resized import resize


@dataclass(frozen=True)
class SelfRefined(Attribution):
    """The mean attention to a word, multiplied by a power of the self-attention of the picture.

    R_w = Sⁿ M_w, where M_w is the map of `Mean` and S the mean self-attention at the largest grid recorded, whose rows
    add up to 1: a place gets the word's attention of the places that it attends to. In joint attention S is the part of
    the picture's attention that goes to the picture, each row divided by its sum.

    >>> import sdprobe
    >>> method = sdprobe.attributions.SelfRefined()
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[method.hooks()], steps=2, seed=0, progress=False
    ... )
    >>> method.heat_map(run, "circle")
    HeatMap('circle', 16×16)

    Args:
        power: n, 0 or more; 0 is the map of `Mean` at the grid of the self-attention.
        grid: the grid of the self-attention, ``(h, w)``, ``(t, h, w)`` in a video, or a number for a square one;
            None for the largest of at most 1024 places.

    Differences from the authors' code: there cross-attention and self-attention are each of one grid, in the down and
    up blocks; here cross-attention is of all sites, resized.

    Source: Nguyen et al. 2023, "Dataset Diffusion: Diffusion-based Synthetic Dataset Generation for Pixel-Level
    Semantic Segmentation" (NeurIPS), section 3 (self-attention exponentiation).
    """

    power: int = 1
    grid: int | Grid | None = None

    parts: ClassVar[tuple[str, ...]] = PARTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", operator.index(self.power))
        if self.power < 0:
            raise ValueError(f"power is a number of times, 0 or more, not {self.power}")

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        grids = None if self.grid is None else [self.grid]
        return Hooks(Mean().hooks(words), SelfAttentionMaps(grids))

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        looks = record_of(run, SelfAttentionMaps, self)
        size = looks.recorded_grid(self.grid)
        matrix = looks.matrix(asked.image, self.grid)
        values = resize(Mean().attribute(run, asked), (size[-2], size[-1]), "bilinear")
        if tuple(values.shape) != size:
            raise ValueError(
                f"self-attention has a grid of {said_grid(size)} and the map of {said_grid(tuple(values.shape))}: "
                f"choose one with as many frames, grid=(frames, h, w)"
            )
        for _ in range(self.power):
            values = spread_over(values, matrix)
        return values
