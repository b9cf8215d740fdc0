"""What a picture shows: coloured shapes found by rule, without a model, and how far they keep to a caption.

Example:
    >>> from sdprobe.shapes.scenes import Object, render
    >>> picture = render([Object("ring", "red", (20, 32), 12), Object("star", "blue", (48, 32), 11)], "grey")
    >>> [(found.colour, found.shape) for found in detect(picture.image)]
    [('red', 'ring'), ('blue', 'star')]
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
_GRID = 16
_UNLIKE = 0.12
"""Mean squared difference from every template above which a thing has no shape."""


@dataclass(frozen=True, eq=False)
class Found:
    """A thing seen in a picture.

    Attributes:
        colour: the nearest of `COLOURS`.
        shape: the nearest of `SHAPES`, or `None` where it is like none of them.
        centre: (x, y) of the middle of its bounding box, in pixels.
        mask: its pixels, `[64, 64]`.
    """

    colour: str
    shape: str | None
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
    for k, colour in enumerate(_NAMES):
        for part in components(nearest == k):
            core = part & ~_grown(~part)
            # The blurred rim of a thing may look like another colour, but a rim has no inside.
            if core.sum() < 9 or core.sum() < 0.12 * part.sum():
                continue
            mask = _refined(pixels, part, core, ground)
            rows, columns = np.nonzero(mask)
            centre = (float(columns.min() + columns.max() + 1) / 2, float(rows.min() + rows.max() + 1) / 2)
            result.append(Found(colour, _shape(mask), centre, mask))
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


def _cropped(amount: Array) -> Array:
    """The bounding box of what is covered, resampled to 16 x 16 by area."""
    rows, columns = np.nonzero(amount > 0.5)
    box = amount[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    fine = (np.arange(4 * _GRID) + 0.5) / (4 * _GRID)
    sampled = box[(fine * box.shape[0]).astype(int)][:, (fine * box.shape[1]).astype(int)]
    result: Array = sampled.reshape(_GRID, 4, _GRID, 4).mean((1, 3))
    return result


@cache
def _templates() -> list[tuple[str, Array]]:
    return [
        (shape, _cropped((coverage(Object(shape, "red", (32 + shift, 32 + shift), radius)) > 0.5).astype(np.float32)))
        for shape in SHAPES
        for radius in (8.0, 10.0, 13.0, 17.0)
        for shift in (0.0, 0.5)
    ]


def _shape(mask: Mask) -> str | None:
    rows, columns = np.nonzero(mask)
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    if min(height, width) < 6 or max(height, width) > 1.6 * min(height, width):
        return None
    own = _cropped(mask.astype(np.float32))
    difference, shape = min((float(np.square(own - other).mean()), shape) for shape, other in _templates())
    return shape if difference < _UNLIKE else None
