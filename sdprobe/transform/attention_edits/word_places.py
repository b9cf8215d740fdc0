"""`WordPlaces`: where in each picture its words are, from the attention to them so far."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.grid import Grid, image_grid
from sdprobe.core.prompt import positions_of
from sdprobe.core.rows import Role
from sdprobe.core.site import Site
from sdprobe.plot.resized import at_largest, resize
from sdprobe.transform.attention_edits.word_columns import Word

USUAL = 16 * 16
"""The number of places of the grid on which Stable Diffusion, at 512 pixels, locates objects best."""


class WordPlaces:
    """The running mean, over sites and steps, of the attention of each picture's places to its words.

    The mean is over heads; the tokens of all words of a picture, of every occurrence and every text encoder, are added.

    >>> import sdprobe
    >>> class Look(sdprobe.Transform):
    ...     kinds = ("cross", "joint")
    ...     def start(self, run):
    ...         self.places = WordPlaces([["circle"], ["star", "ring"]])
    ...     def attention(self, attn, site):
    ...         self.places.add(attn, site)
    ...         return attn
    >>> look, settings = Look(), {"steps": 2, "seed": 0, "progress": False}
    >>> run = sdprobe.sample(sdprobe.load(), ["a red circle", "a star and a ring"], hooks=[look], **settings)
    >>> run[look].places.grids, run[look].places.at((64, 64)).shape
    ([(4, 4), (8, 8), (16, 16)], torch.Size([2, 64, 64]))

    Args:
        words: the words of each image: words or phrases, ``"<pad>"`` and the like, or token positions. A picture whose
            prompt has none of its words has a map of zeros.
        role: the rows that are looked at.
    """

    def __init__(self, words: Sequence[Sequence[Word]], role: Role = "cond") -> None:
        self.words, self.role = [list(own) for own in words], role
        self._sums: dict[Grid, Float[Tensor, "images h w"]] = {}
        self._counts: dict[Grid, Float[Tensor, " images"]] = {}

    @property
    def grids(self) -> list[Grid]:
        """The grids that were seen, the coarsest first."""
        return sorted(self._sums, key=math.prod)

    def add(self, attn: Attention, site: Site) -> None:
        """Add one attention call. It changes nothing; a site without text, or without a grid, adds nothing."""
        if site.text is None or site.grid is None:
            return
        alike: dict[tuple[int, ...], list[int]] = {}
        for k, row in enumerate(attn.rows):
            if row.role == self.role:
                found = {position for word in self.words[row.image] for position in positions_of(row.prompt, word)}
                alike.setdefault(tuple(site.tokens(sorted(found))), []).append(k)
        for columns, entries in alike.items():
            images = [attn.rows[k].image for k in entries]
            with torch.no_grad():
                seen = attn.probs(entries, tokens=columns, queries=site.image).float().mean(1).sum(-1)
            grid = image_grid(site.grid, "finding the places of words while the run goes on")
            self._add(images, seen.unflatten(-1, grid), grid)

    def at(
        self, size: Grid | None = None, grids: Collection[Grid] | None = None, mode: str = "bilinear"
    ) -> Float[Tensor, "images h w"]:
        """Return the map of each picture.

        Args:
            size: ``(h, w)``; None for that of the largest grid.
            grids: the grids used; None for all.
            mode: how a map is brought to the size.

        Raises ValueError for a grid that was not seen.
        """
        chosen = self.grids if grids is None else list(grids)
        if missing := [grid for grid in chosen if grid not in self._sums] or not chosen:
            raise ValueError(f"no attention to the text has a grid of {missing}; those seen: {self.grids}")
        count = torch.stack([self._counts[grid] for grid in chosen]).sum(0)
        found = at_largest(self._sums[grid] for grid in chosen).sum(0) / count.clamp(min=1)[:, None, None]
        return found if size is None else resize(found, (size[-2], size[-1]), mode)

    def usual_grid(self) -> Grid:
        """Return the grid, of those seen, that is closest to 16×16. Raises ValueError if none was seen."""
        if not self.grids:
            raise ValueError("no attention to the text was seen yet")
        return min(reversed(self.grids), key=lambda grid: abs(math.log(math.prod(grid) / USUAL)))

    def _add(self, images: list[int], seen: Float[Tensor, "some h w"], grid: Grid) -> None:
        if grid not in self._sums:
            self._sums[grid] = seen.new_zeros(len(self.words), *grid)
            self._counts[grid] = seen.new_zeros(len(self.words))
        self._sums[grid][images] += seen
        self._counts[grid][images] += 1
