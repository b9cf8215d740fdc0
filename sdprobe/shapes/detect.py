"""What a picture shows: coloured shapes found by rule, without a model, and how far they keep to a caption.

Example:
    >>> from sdprobe.shapes.scenes import Object, render
    >>> picture = render([Object("ring", "red", (20, 32), 12), Object("star", "blue", (48, 32), 11)], "grey")
    >>> [(found.colour, found.shape, round(found.score, 1)) for found in detect(picture.image)]
    [('red', 'ring', 1.0), ('blue', 'star', 1.0)]
    >>> background(picture.image)
    'grey'
    >>> adherence(picture.objects, picture.background, picture.image).relation
    True
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .captions import relation
from .drawing import BACKGROUNDS, COLOURS, SHAPES, SIZE, Array, Image, Mask, Object, coverage

_NAMES = tuple(COLOURS)
# Colours first, then the greys a background may hold; the nearest one is a pixel's.
_TONES = np.array([*COLOURS.values(), *([level] * 3 for level in (22, 150, 175, 203, 230, 243))], np.float32)
_GRID = 32
_REACH = 2.5
"""How far a normalised mask reaches from its centroid, in deviations."""
_UNLIKE = 0.13
"""How far its outline may lie off a shape's: real shapes stay below 0.09, a trapezoid begins at 0.15."""
_SAME = 45.0
"""Distance of two colours below which touching parts are one thing; named colours are at least 86 apart."""
_SHARPNESS = 0.015
"""The difference in that which makes one answer e times as likely as another."""


@dataclass(frozen=True, eq=False)
class Found:
    """A thing seen in a picture.

    Attributes:
        colour: the nearest of `COLOURS`.
        shape: the nearest of `SHAPES`, or `None` where it is like none of them.
        score: how sure the shape is, or that there is none: its share, from 0 to 1, among the six shapes and none,
            each weighted by how near the outline is (`unlikeness`). About 1 for a shape as drawn by rule, 0.5 between
            two answers. The order of scores means something; 0.9 need not be right nine times in ten.
        centre: (x, y) of the middle of its bounding box, in pixels.
        mask: its pixels, `[64, 64]`.
    """

    colour: str
    shape: str | None
    score: float
    centre: tuple[float, float]
    mask: Mask


@dataclass(frozen=True)
class Adherence:
    """How a picture keeps to what was asked for.

    Attributes:
        colours: for each object asked for, whether its colour is seen.
        shapes: for each, whether a thing of its colour and its shape is seen.
        relation: whether the first two, both seen by colour and shape, lie as asked; `None` if they cannot be judged.
        background: whether the background is right.
    """

    colours: tuple[bool, ...]
    shapes: tuple[bool, ...]
    relation: bool | None
    background: bool


def detect(image: Image) -> list[Found]:
    """Find the coloured things in a picture, large ones first.

    Args:
        image: `[64, 64, 3]`, uint8.

    Raises:
        ValueError: if the picture has another size.
    """
    pixels = _checked(image)
    nearest = ((pixels[:, :, None] - _TONES) ** 2).sum(-1).argmin(-1)
    ground = nearest >= len(_NAMES)
    result = []
    for part in _parts(pixels, nearest):
        core = part & ~_grown(~part)
        mask = _refined(pixels, part, core, ground)
        middle = pixels[core].mean(0)
        colour = _NAMES[int(np.square(_TONES[: len(_NAMES)] - middle).sum(-1).argmin())]
        for piece in _pieces(mask):
            rows, columns = np.nonzero(piece)
            centre = (float(columns.min() + columns.max() + 1) / 2, float(rows.min() + rows.max() + 1) / 2)
            result.append(Found(colour, *_shape(piece), centre, piece))
    return sorted(result, key=lambda found: -int(found.mask.sum()))


def background(image: Image, found: Sequence[Found] | None = None) -> str:
    """The background of a picture: the nearest of `BACKGROUNDS`, by level and by how much it varies."""
    pixels = _checked(image)
    away = np.ones((SIZE, SIZE), np.bool_)
    for thing in detect(image) if found is None else found:
        away &= ~_grown(_grown(thing.mask))
    if away.sum() < 50:
        away[:] = True
    grey = pixels.mean(-1)[away]
    if grey.std() > 12 and 160 < grey.mean() < 235:
        return "striped"
    plain = {name: level for name, level in BACKGROUNDS.items() if name != "striped"}
    middle = float(np.median(grey))
    return min(plain, key=lambda name: abs(plain[name] - middle))


def adherence(objects: Sequence[Object], ground: str, image: Image) -> Adherence:
    """Compare a picture with what was asked for.

    Args:
        objects: what was asked for; the first two in the relation asked for.
        ground: the background asked for.
        image: the picture, `[64, 64, 3]`, uint8.
    """
    found = detect(image)
    both = [next((f for f in found if (f.colour, f.shape) == (o.colour, o.shape)), None) for o in objects]
    lies: bool | None = None
    if len(objects) == 2 and both[0] and both[1]:
        seen = [Object(str(f.shape), f.colour, f.centre, 10.0) for f in both if f]
        lies = relation(*seen) == relation(*objects)
    return Adherence(
        tuple(any(f.colour == o.colour for f in found) for o in objects),
        tuple(f is not None for f in both),
        lies,
        background(image, found) == ground,
    )


def components(mask: Mask) -> list[Mask]:
    """Connected parts of a mask, diagonal neighbours included, in reading order.

    Example:
        >>> two = np.zeros((64, 64), bool); two[3, 4] = two[30:32, 40] = True
        >>> [int(part.sum()) for part in components(two)]
        [1, 2]
    """
    height, width = mask.shape
    labels = np.where(mask, np.arange(1, height * width + 1).reshape(height, width), 0)
    while True:  # every pixel takes the highest label around it, until nothing changes
        spread = np.where(mask, _highest(labels), 0)
        if (spread == labels).all():
            return [labels == label for label in np.unique(labels) if label]
        labels = spread


def _checked(image: Image) -> Array:
    if image.shape != (SIZE, SIZE, 3):
        raise ValueError(f"a picture is [{SIZE}, {SIZE}, 3], not {list(image.shape)}")
    return image.astype(np.float32)


def _highest(values: NDArray[np.int64]) -> NDArray[np.int64]:
    padded = np.pad(values, 1)
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _grown(mask: Mask) -> Mask:
    return _highest(mask.astype(np.int64)) > 0


def _parts(pixels: Array, nearest: NDArray[np.int64]) -> list[Mask]:
    """Connected parts of one colour each; a thing whose colour lies between two names is one part."""
    parts: list[Mask] = []
    for k in range(len(_NAMES)):
        for part in components(nearest == k):
            core = part & ~_grown(~part)
            # The blurred rim of a thing may look like another colour, but a rim has no inside.
            if core.sum() >= 9 and core.sum() >= 0.12 * part.sum():
                parts.append(part)
    while True:
        middles = [pixels[part & ~_grown(~part)].mean(0) for part in parts]
        near = [
            (i, j)
            for j in range(len(parts))
            for i in range(j)
            if np.linalg.norm(middles[i] - middles[j]) < _SAME and (_grown(parts[i]) & parts[j]).any()
        ]
        if not near:
            return parts
        i, j = near[0]
        parts[i] = parts[i] | parts.pop(j)


def _pieces(mask: Mask) -> list[Mask]:
    """The mask, or, where it has no shape itself, the pieces that touch in it, if each of them has one."""
    if _shape(mask)[0]:
        return [mask]
    holes = [part for part in components(~mask) if part.sum() >= 4 and not _touches_edge(part)]
    seeds = [holes]
    inside = mask
    for _ in range(3):
        inside = inside & ~_grown(~inside)
        seeds.append([part for part in components(inside) if part.sum() >= 9])
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    for some in seeds:
        if len(some) < 2:
            continue
        away = [np.hypot(*(c[..., None] - c[part] for c in (y, x))).min(-1) for part in some]
        pieces: list[Mask] = [mask & (np.argmin(away, axis=0) == k) for k in range(len(some))]
        if all(piece.any() and _shape(piece)[0] for piece in pieces):
            return pieces
    return [mask]


def _touches_edge(mask: Mask) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _refined(pixels: Array, part: Mask, core: Mask, ground: Mask) -> Mask:
    """A part with its blurred rim: the pixels nearby that are more of its colour than of the background's."""
    near = _grown(_grown(part))
    around = _grown(_grown(near)) & ground & ~near
    colour = pixels[core].mean(0)
    other = pixels[around].mean(0) if around.any() else pixels[ground].mean(0) if ground.any() else colour * 0
    axis = colour - other
    share = (pixels - other) @ axis / max(float(axis @ axis), 1.0)
    aside = np.linalg.norm(pixels - other - share[..., None] * axis, axis=-1)
    # Pixels far aside of the line between the two colours belong to some third thing.
    mask: Mask = part | (near & (share > 0.5) & (aside < 40))
    return mask


def _normal(mask: Mask) -> tuple[Array, float]:
    """A mask moved to its centroid and scaled to unit deviation on each axis, `[32, 32]`, and the log of its aspect.

    Unlike a bounding box, which one protruding corner moves, centroid and deviations are averages over all pixels.
    """
    rows, columns = np.nonzero(mask)
    # A pixel is itself one wide, which adds 1/12 to the variance.
    high, wide = np.sqrt(rows.var() + 1 / 12), np.sqrt(columns.var() + 1 / 12)
    at = (np.arange(_GRID) + 0.5) / _GRID * 2 * _REACH - _REACH
    down, across = (
        np.maximum(0, 1 - np.abs(middle + at[:, None] * spread - np.arange(length)))  # linear interpolation
        for middle, spread, length in ((rows.mean(), high, mask.shape[0]), (columns.mean(), wide, mask.shape[1]))
    )
    return down @ mask @ across.T, float(np.log(wide / high))


@cache
def _templates() -> list[tuple[str, Array, float, float]]:
    """Every shape at some sizes: normalised, the log of its aspect, and the length of its outline in deviations."""
    cell = 2 * _REACH / _GRID
    result = []
    for shape in SHAPES:
        for radius in (8.0, 10.0, 13.0, 17.0):
            for shift in (0.0, 0.5):
                own, aspect = _normal(coverage(Object(shape, "red", (32 + shift, 32 + shift), radius)) > 0.5)
                outline = float(np.hypot(*np.gradient(own)).sum()) * cell
                result.append((shape, own, aspect, outline))
    return result


def unlikeness(mask: Mask) -> dict[str, float]:
    """How unlike a mask is to each shape: how far its outline lies off the shape's on average, in deviations.

    Place and size make no difference. Being stretched counts as well, by a third of the log of the stretch.

    Example:
        >>> ring = coverage(Object("ring", "red", (20.3, 40.8), 11)) > 0.5
        >>> off = unlikeness(ring)
        >>> min(off, key=off.get), off["ring"] < 0.06, off["circle"] > 0.3
        ('ring', True, True)
    """
    own, aspect = _normal(mask)
    area = (2 * _REACH / _GRID) ** 2
    result = dict.fromkeys(SHAPES, np.inf)
    for shape, other, its, outline in _templates():
        off = float(np.abs(own - other).sum()) * area / outline
        result[shape] = min(result[shape], float(np.hypot(off, (aspect - its) / 3)))
    return result


def _shape(mask: Mask) -> tuple[str | None, float]:
    """The shape of a mask, or `None`, and how sure that is."""
    rows, columns = np.nonzero(mask)
    if min(np.ptp(rows), np.ptp(columns)) < 5:
        return None, 1.0
    chances: dict[str | None, float] = {None: 1.0}
    for shape, off in unlikeness(mask).items():
        chances[shape] = float(np.exp((_UNLIKE - off) / _SHARPNESS))
    best = max(chances, key=lambda shape: chances[shape])
    return best, chances[best] / sum(chances.values())
