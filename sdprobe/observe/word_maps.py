"""Maps of words from sums of attention: of all words at once, so that every sum is read once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.grid import Grid
from sdprobe.observe.attention_sums import AttentionSums, Key
from sdprobe.observe.daam import daam_maps
from sdprobe.plot.resized import at_largest

Columns = Sequence[Sequence[int]]
"""The columns of each word in one sum."""


def maps_of_words(
    sums: AttentionSums,
    columns: Mapping[str, Mapping[Key, Sequence[int]]],
    image: int,
    head: int | None,
    daam_size: tuple[int, int] | None,
) -> dict[str, Float[Tensor, "*frames h w"]]:
    """Return the map of each word.

    Args:
        sums: the recording.
        columns: for each word the sums to use, with its columns in them.
        image: the image number.
        head: the head number; None for all.
        daam_size: the size of DAAM's maps; None for means, at the largest grid.
    """
    found: dict[str, Tensor] = {}
    for keys in dict.fromkeys(tuple(own) for own in columns.values()):  # most often all words are in the same sums
        words = [word for word, own in columns.items() if tuple(own) == keys]
        of_all = {key: [columns[word][key] for word in words] for key in keys}
        if daam_size is None:
            maps = mean_maps(sums, of_all, image, head)
        else:
            maps = daam_maps_of_words(sums, of_all, image, head, daam_size)
        found.update(zip(words, maps, strict=True))
    return {word: found[word] for word in columns}


def mean_maps(
    sums: AttentionSums, columns: Mapping[Key, Columns], image: int, head: int | None
) -> Float[Tensor, "words *frames h w"]:
    """Return the mean probability over sites, heads, steps and a word's tokens, at the largest grid.

    Args:
        columns: the sums to use, with the columns of each word in them.
    """
    totals: dict[tuple[Grid, int], Tensor] = {}
    for key, words in columns.items():
        first, last = _span(words)
        if last > (shown := sums[key].shape[-1]):
            raise ValueError(
                f"the maps of {key.layer or 'all sites'} are of {shown} tokens, and token {last - 1} is padding, which "
                f"this model's denoiser is not shown"
            )
        heads = _heads(sums[key], image, head)[..., first:last]
        mean = heads.new_zeros(heads.shape[1:], dtype=torch.float32)
        for own in heads:  # faster on a CPU than one sum over strided columns, and half precision is added in float32
            mean += own
        mean /= len(heads)
        alike = (key.grid, key.reading)
        totals[alike] = totals[alike] + mean if alike in totals else mean
    by_reading = {key.reading: words for key, words in columns.items()}
    by_grid: dict[Grid, Tensor] = {}
    for (grid, reading), total in totals.items():
        words = by_reading[reading]
        first, _ = _span(words)
        seen = torch.stack([total[:, [column - first for column in word]].mean(-1) for word in words])
        seen = seen.unflatten(-1, grid)
        by_grid[grid] = by_grid[grid] + seen if grid in by_grid else seen
    return at_largest(by_grid.values()).sum(0) / sum(sums.counts[key] for key in columns)


def daam_maps_of_words(
    sums: AttentionSums, columns: Mapping[Key, Columns], image: int, head: int | None, size: tuple[int, int]
) -> Float[Tensor, "words *frames h w"]:
    """Return DAAM's maps, at a size ``(h, w)``, of a video of each frame; the arguments are those of `mean_maps`.

    Raises ValueError where layers and heads were not kept apart, and where a word is of more tokens in one prompt than
    in another.
    """
    if not {"layer", "head"} <= sums.apart:
        raise ValueError("DAAM's map needs layers and heads apart: record with AttentionMaps(keep=('layer', 'head'))")
    counts = {tuple(map(len, words)) for words in columns.values()}
    if len(counts) > 1:
        raise ValueError("the word is of more tokens in one of this run's prompts than in another: ask for a step")
    by_layer: dict[str, list[Key]] = {}
    for key in columns:
        by_layer.setdefault(str(key.layer), []).append(key)

    def layers() -> Iterator[tuple[str, Float[Tensor, "heads tokens *frames h w"]]]:
        for layer, keys in by_layer.items():
            parts = (_tokens(_heads(sums[key], image, head), columns[key]).unflatten(-1, key.grid) for key in keys)
            yield layer, sum(parts, torch.zeros(()))

    maps = daam_maps(layers(), size)
    return torch.stack([own.mean(0) for own in maps.split(list(counts.pop()))])


def _heads(total: Tensor, image: int, head: int | None) -> Float[Tensor, "heads positions tokens"]:
    own: Tensor = total[image, slice(None) if head is None else slice(head, head + 1)]
    return own


def _tokens(heads: Tensor, words: Columns) -> Float[Tensor, "heads tokens positions"]:
    first, last = _span(words)
    chosen = [column - first for word in words for column in word]
    return heads[..., first:last].float().mT[:, chosen]


def _span(words: Columns) -> tuple[int, int]:
    every: Collection[int] = [column for word in words for column in word]
    return min(every), max(every) + 1
