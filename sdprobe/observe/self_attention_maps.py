"""`SelfAttentionMaps`: the attention of image positions to image positions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe import plot
from sdprobe.core.attention import Attention
from sdprobe.core.grid import Grid, named_grid, place_in, read_grid, said_grid
from sdprobe.core.hook import Observer, patterns
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.core.picture_of import picture_of
from sdprobe.core.plain_values import Tensors
from sdprobe.core.possible_grids import as_grids
from sdprobe.core.run import Run
from sdprobe.core.short_repr import said
from sdprobe.core.site import Site
from sdprobe.core.written_values import MOST_ENTRIES, count, listed
from sdprobe.plot.heatmap import HeatMap
from sdprobe.plot.resized import resize

MOST = 32 * 32  # positions of a grid that is recorded without being asked for


class SelfAttentionMaps(Observer):
    """Record self-attention, averaged over sites, heads and steps: one matrix per grid.

    In a video a position is one of a latent frame, and it looks at those of all frames.

    In joint attention (Stable Diffusion 3, Flux) it is the part of the image's attention that goes to the image.

    >>> import sdprobe
    >>> maps = sdprobe.SelfAttentionMaps()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], steps=4, seed=0, progress=False)
    >>> run[maps].heat_map((8, 8))
    HeatMap('position (8, 8)', 16×16)
    >>> len(run[maps].components(3))
    3

    Args:
        grids: only sites of these grids, ``(h, w)``, a number for a square one, ``(t, h, w)`` in a video. None for
            every grid of at most 1024 positions, as 32 × 32: the matrix of a 64 × 64 grid takes 67 MB per image, and
            that of a video of 21 × 30 × 52 positions 4.3 GB.
        modules: fnmatch patterns on module names; None for all.
        strict: raise an error if a site cannot be seen; False only lists it in ``run.coverage``.
    """

    kinds = ("self", "joint")

    def __init__(
        self,
        grids: Collection[int | Grid] | None = None,
        *,
        modules: Sequence[str] | None = None,
        strict: bool = True,
    ) -> None:
        self.grids = as_grids(grids)
        self.modules = patterns(modules)
        self.strict = strict

    def start(self, run: Run) -> None:
        self.run = run
        self.sums: dict[Grid, Float[Tensor, "images positions seen"]] = {}
        self.counts: dict[Grid, int] = {}
        self._there: set[Grid] = set()

    def attention(self, attn: Attention, site: Site) -> None:
        grid = site.grid
        if all(row.role != "cond" for row in site.step.rows):
            return  # a pipeline may call its denoiser for each role separately
        if grid is not None:
            self._there.add(grid)
        if grid is None or (prod(grid) > MOST if self.grids is None else grid not in self.grids):
            return
        probs = attn.probs(rows="cond", queries=site.image, tokens=site.image)
        mean = reduce(probs, "i h p s -> i p s", "mean").float()
        self.sums[grid] = self.sums[grid].add_(mean) if grid in self.sums else mean
        self.counts[grid] = self.counts.get(grid, 0) + 1

    def records(self) -> HookRecords:
        grids = [[*grid, self.counts[grid]] for grid in self.sums]
        return HookRecords({"grids": grids}, {named_grid(grid): total for grid, total in self.sums.items()})

    def restore(self, records: HookRecords, run: Run) -> None:
        self.run = run
        self._there = set()
        self.counts = {
            read_grid(grid): count(calls, MOST_ENTRIES) for *grid, calls in map(listed, listed(records.values["grids"]))
        }
        read = _ReadSum(records.tensors, run.settings.images)
        self.sums = TensorsByKey({grid: grid for grid in self.counts}, read)  # type: ignore[assignment]

    def matrix(self, image: int = 0, grid: int | Grid | None = None) -> Float[Tensor, "places seen"]:
        """Return the mean self-attention matrix of one image; ``grid`` None is the largest grid recorded.

        Each row sums to 1; in joint attention to less, as the rest goes to the text.
        """
        chosen = self.recorded_grid(grid)
        self.run.prompt_of(image)
        return self.sums[chosen][image] / self.counts[chosen]

    def heat_map(
        self, at: Grid | Shaped[Any, "*frames H W"], image: int = 0, grid: int | Grid | None = None
    ) -> HeatMap:
        """Return the attention of an image position, or of a region, to all positions.

        Args:
            at: ``(row, column)`` on the grid, ``(frame, row, column)`` in a video, or a mask ``[H, W]`` of any size,
                over whose positions the map is averaged; in a video ``[frames, H, W]``, of as many frames as the grid.
            image: the image number.
            grid: which grid; None is the largest one recorded.
        """
        own = self.recorded_grid(grid)
        matrix = self.matrix(image, grid)
        if isinstance(at, tuple):
            values, word = matrix[place_in(own, at)], f"position {at}"
        else:
            mask = torch.empty(0) if isinstance(at, str) else torch.as_tensor(at).float()
            if mask.ndim != len(own) or tuple(mask.shape[:-2]) != own[:-2]:
                wanted = f"[{own[0]}, H, W], a frame for each of the grid" if len(own) == 3 else "[H, W]"
                place = "(frame, row, column)" if len(own) == 3 else "(row, column)"
                raise ValueError(f"heat_map takes one place {place}, or a mask {wanted}, not {at!r}")
            inside = resize(mask, (own[-2], own[-1]), "area").flatten()
            if not inside.sum():
                raise ValueError("the mask is empty")
            values, word = (inside / inside.sum()).to(matrix) @ matrix, "region"
        return HeatMap(values.unflatten(0, own), word, picture_of(self.run, image))

    def components(self, k: int = 3, image: int = 0, grid: int | Grid | None = None) -> list[HeatMap]:
        """Return the leading components of the matrix as maps: its first right singular vectors, with centred rows.

        Hertz et al. (prompt-to-prompt, 2022, fig. 9) show such maps. The sign of a component is chosen so that its
        entry of largest magnitude is positive.
        """
        matrix = self.matrix(image, grid)
        if not matrix.isfinite().all():
            raise ValueError("the matrix has entries that are no numbers, and so has no components")
        vectors = torch.linalg.svd(matrix - matrix.mean(-1, keepdim=True), full_matrices=False).Vh[:k]
        signs = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
        maps, picture = (vectors * signs).unflatten(1, self.recorded_grid(grid)), picture_of(self.run, image)
        return [HeatMap(own, f"component {i}", picture) for i, own in enumerate(maps)]

    def figure(self, k: int = 4, image: int = 0, grid: int | Grid | None = None) -> Figure:
        """Plot the leading components side by side; of a video one below the other, its frames side by side."""
        shown = self.components(k, image, grid)
        if shown[0].is_video:
            frames = [own.normalized().values.cpu().numpy() for own in shown]
            titles = [f"frame {i}" for i in range(shown[0].frames)]
            return plot.sheet(frames, rows=[own.word for own in shown], columns=titles)  # type: ignore[arg-type]
        return plot.sheet([[own.normalized().values.cpu().numpy() for own in shown]], columns=[o.word for o in shown])

    def recorded_grid(self, grid: int | Grid | None = None) -> Grid:
        """Return a grid that was recorded; None for the largest. Raises ValueError for another."""
        if not self.sums:
            there = ", ".join(said_grid(own) for own in sorted(self._there))
            raise ValueError(
                "no self-attention was recorded: no site has one of the grids asked for"
                + (f", grids={self.grids or f'of at most {MOST} positions'}; those there are: {there}" if there else "")
            )
        if grid is None:
            return max(self.sums, key=prod)
        chosen = (grid, grid) if isinstance(grid, int) else grid
        if chosen not in self.sums:
            raise ValueError(f"grid {chosen} was not recorded; recorded: {sorted(self.sums)}")
        return chosen


@dataclass(frozen=True)
class _ReadSum:
    """Reads a sum of a saved run. A class, and no function inside another, which no pickle can hold."""

    tensors: Tensors
    images: int

    def __call__(self, grid: Grid) -> Float[Tensor, "images positions seen"]:
        x, places = self.tensors[named_grid(grid)], prod(grid)
        if x.ndim != 3 or len(x) < self.images or x.shape[1:] != (places, places) or x.dtype != torch.float32:
            raise ValueError(
                f"the sum {named_grid(grid)}, {said(x)}, is none of {self.images} images of {places} places"
            )
        return x
