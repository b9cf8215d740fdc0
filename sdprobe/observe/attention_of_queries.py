"""`attention_maps`: the attention of recorded queries to any keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.attention import BLOCK_BYTES, in_full_precision
from sdprobe.core.grid import Grid
from sdprobe.plot.resized import at_largest


class SiteQueries(NamedTuple):
    """The queries of one image at one module.

    Attributes:
        layer: the module's name.
        query: of each call; in the dtype and on the device in which they are kept.
        grid: ``(h, w)`` of the positions.
        scale: the factor of the scores.
    """

    layer: str
    query: Shaped[Tensor, "calls heads positions width"]
    grid: Grid
    scale: float


def attention_maps(
    sites: Iterable[tuple[SiteQueries, Float[Tensor, "heads tokens width"]]],
    columns: Sequence[Sequence[int]],
    head: int | None = None,
) -> Float[Tensor, "maps *frames h w"]:
    """Return the mean attention of queries to some of their keys, at the largest grid.

    M_c(p) = mean over sites s, calls t, heads h and tokens k of c of softmax(scale_s Q_st K_sᵀ)[h, p, k]

    The softmax runs over all keys of a site. Smaller grids are resized to the largest one, bilinearly. It is computed
    in float32, and differentiable.

    Args:
        sites: the queries of each site, and its keys.
        columns: for each map the positions of its keys.
        head: this head only; None for all.

    Raises ValueError for a head that a site does not have.
    """
    by_grid: dict[Grid, Tensor] = {}
    calls = 0
    for (layer, query, grid, scale), key in sites:
        if head is not None and not 0 <= head < query.shape[1]:
            raise ValueError(f"{layer} has {query.shape[1]} heads, counted from 0, and none of number {head}")
        chosen = slice(None) if head is None else slice(head, head + 1)
        keys = key.to(query.device, torch.float32)[chosen].mT
        each = 4 * query.shape[1] * query.shape[2] * keys.shape[-1]
        for block in query[:, chosen].split(max(1, BLOCK_BYTES // each)):
            with in_full_precision(keys):
                probs = torch.matmul(block.float() * scale, keys).softmax(-1).sum(0).mean(0)
            seen = torch.stack([probs[:, list(own)].mean(-1) for own in columns]).unflatten(-1, grid)
            by_grid[grid] = by_grid[grid] + seen if grid in by_grid else seen
        calls += len(query)
    return at_largest(by_grid.values()).sum(0) / calls
