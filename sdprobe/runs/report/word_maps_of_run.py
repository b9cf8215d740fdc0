"""`word_maps`: the heat maps of a recording that a report shows: of each word, over steps, layers and heads."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float

from sdprobe.core.rows import Role
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.attention_sums import Keep
from sdprobe.plot.tiled import tiled
from sdprobe.runs.report.heat_tiles import HeatTiles, TilePlace
from sdprobe.runs.report.prompt_pieces import Piece

BYTES_OF_A_NUMBER, BYTES_OF_A_MAP = 1.36, 22
"""What maps take in the page, where PNG cannot compress them: base64 makes 4 bytes of 3, and each has a number and a
range."""

MISSING = TilePlace(-1, 0.0, 0.0)

Chosen = int | str | None


@dataclass(frozen=True)
class Axis:
    """The steps, layers or heads of which maps are shown.

    Args:
        name: ``"step"``, ``"layer"`` or ``"head"``.
        values: what can be chosen; None is the mean over all.
        total: how many were recorded.
        said: where there is nothing to choose, why; where not all are shown, which are.
    """

    name: str
    values: tuple[Chosen, ...]
    total: int
    said: str


@dataclass(frozen=True)
class WordTiles:
    """The maps of a word, for every combination of step, layer and head, the last changing first.

    Args:
        tiles: the numbers of their tiles, as base64 of int32; -1 where there is none.
        ranges: the smallest and the largest value of each, as base64 of float32; NaN for a map that is not finite.
    """

    tiles: str
    ranges: str


@dataclass(frozen=True)
class WordMaps:
    """The maps of one image's prompt in one recording.

    Args:
        hook: the recording's repr.
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.
        axes: of steps, layers and heads.
        words: by the number of the piece in the prompt.
        said: what is missing, in words.
        frames: how many frames of a video are side by side in each map, in as many columns as rows, or one more; 0 for
            an image.
    """

    hook: str
    role: Role
    axes: tuple[Axis, ...]
    words: Mapping[int, WordTiles]
    said: str
    frames: int = 0


def roles_of(maps: AttentionMaps) -> tuple[Role, ...]:
    """Return the roles whose prompts were recorded."""
    return ("cond", "uncond") if maps.rows == "both" else (maps.rows,)


def word_maps(
    maps: AttentionMaps, image: int, role: Role, pieces: Sequence[Piece], tiles: HeatTiles, budget: float
) -> WordMaps:
    """Return the maps of the words of a prompt.

    Args:
        maps: a run's copy.
        image: the image's number in the recording.
        role: which of its prompts.
        pieces: of the prompt, special tokens included.
        tiles: where the maps are put.
        budget: the bytes that they may take in the page. Where all would take more, fewer steps, layers and heads are
            shown, evenly chosen, and said to be.
    """
    asked = {number: piece for number, piece in enumerate(pieces) if piece.word is not None}
    recorded: dict[int, Piece] = {}
    error = "the prompt has no words"
    for number, piece in asked.items():
        try:
            values_of(maps, piece, image, role)
            recorded[number] = piece
        except ValueError as missing:
            error = str(missing)
    if not recorded:
        return WordMaps(repr(maps), role, (), {}, f"{maps!r} has no heat map of this image: {error}.")
    axes = _axes(maps, next(iter(recorded.values())), image, role, budget / len(recorded))
    words = {number: _word_tiles(maps, piece, image, role, axes, tiles) for number, piece in recorded.items()}
    left = [piece.title for number, piece in asked.items() if number not in recorded]
    said = f"{maps!r} did not record {', '.join(left)}." if left else ""
    return WordMaps(repr(maps), role, axes, words, said, _frames(maps))


def values_of(maps: AttentionMaps, piece: Piece, image: int, role: Role, **where: Chosen) -> Float[np.ndarray, "h w"]:
    """Return a piece's map; of a video, those of its frames side by side. Raises ValueError where there is none."""
    at: dict[str, Any] = {"image": image, "role": role, **where}
    if isinstance(piece.word, str):
        found = maps.heat_map(piece.word, piece.occurrence, **at).values
    else:
        found = torch.stack([maps.heat_map(position, **at).values for position in piece.word or ()]).mean(0)
    values = found.float().cpu().numpy()
    return values if values.ndim == 2 else tiled(values)


def _frames(maps: AttentionMaps) -> int:
    """How many frames a map has; 0 for that of an image. No map is of sites with different numbers of frames."""
    return max((key.grid[0] for key in maps.sums if len(key.grid) == 3), default=0)


def thinned(values: Sequence[Any], count: int) -> list[Any]:
    """Return so many values, evenly chosen, with the first and the last.

    >>> thinned(range(30), 4)
    [0, 10, 19, 29]
    """
    return [values[round(i * (len(values) - 1) / max(count - 1, 1))] for i in range(count)]


def _axes(maps: AttentionMaps, piece: Piece, image: int, role: Role, budget: float) -> tuple[Axis, ...]:
    apart = maps.sums.kept_apart()
    kept: dict[str, list[Any]] = {name: list(apart[name]) if name in maps.keep else [] for name in get_args(Keep)}
    sizes = {layer: values_of(maps, piece, image, role, layer=layer).size for layer in (None, *kept["layer"])}
    shown = dict(kept)

    def size() -> float:
        steps, layers, heads = (_choices(shown[name], kept[name]) for name in kept)
        return len(steps) * len(heads) * sum(BYTES_OF_A_NUMBER * sizes[layer] + BYTES_OF_A_MAP for layer in layers)

    while size() > budget and any(shown.values()):
        name = max(shown, key=lambda own: len(shown[own]))
        count = len(shown[name]) * 3 // 4
        shown[name] = thinned(kept[name], count) if count > 1 else []
    return tuple(
        Axis(name, tuple(_choices(shown[name], kept[name])), len(kept[name]), _said(name, shown[name], kept[name]))
        for name in kept
    )


def _choices(shown: Sequence[Any], kept: Sequence[Any]) -> list[Chosen]:
    """What can be chosen: the mean and each value; but where only one was recorded, it is the mean."""
    return list(shown) if len(kept) == 1 and shown else [None, *shown]


def _said(name: str, shown: Sequence[Any], kept: Sequence[Any]) -> str:
    if not kept:
        return f"All {name}s together: they were not kept apart, as AttentionMaps(keep=({name!r},)) does."
    if len(kept) == 1:
        return f"Only one {name} was recorded: {kept[0]}."
    if not shown:
        return f"All {len(kept)} {name}s together: apart, their maps would make this file too large."
    if len(shown) < len(kept):
        return f"{len(shown)} of the {len(kept)} recorded {name}s, evenly chosen: all would make this file too large."
    return ""


def _word_tiles(
    maps: AttentionMaps, piece: Piece, image: int, role: Role, axes: Sequence[Axis], tiles: HeatTiles
) -> WordTiles:
    places: list[TilePlace] = []
    for step, layer, head in product(*(axis.values for axis in axes)):
        try:
            places.append(tiles.add(values_of(maps, piece, image, role, step=step, layer=layer, head=head)))
        except ValueError:  # nothing was recorded for this combination, which the page says
            places.append(MISSING)
    return WordTiles(
        packed(np.array([place.tile for place in places], dtype="<i4")),
        packed(np.array([(place.low, place.high) for place in places], dtype="<f4")),
    )


def packed(numbers: np.ndarray) -> str:
    """Return numbers as base64 of their bytes."""
    return b64encode(numbers.tobytes()).decode("ascii")
