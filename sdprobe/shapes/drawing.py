"""Coloured shapes on plain backgrounds, drawn with numpy alone.

The word lists below are all the model ever hears of: eight colours, six shapes, four backgrounds. Everything that is
drawn can be named by them, so every picture has a known truth.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Height and width of every picture, in pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 40),
    "orange": (245, 140, 25),
    "yellow": (245, 222, 50),
    "green": (40, 165, 65),
    "cyan": (60, 205, 225),
    "blue": (40, 75, 215),
    "purple": (130, 45, 170),
    "pink": (250, 140, 195),
}
"""Colour words and their RGB."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
"""Shape words."""

BACKGROUNDS: dict[str, float] = {"white": 243.0, "grey": 150.0, "black": 22.0, "striped": 201.0}
"""Background words and the (mean) grey level each is drawn with."""

SMALL, LARGE = 11.0, 15.0
"""Radii (pixels) below and above which an object may be called small or large."""

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Array = NDArray[np.floating[Any]]

_Y, _X = (np.mgrid[0:SIZE, 0:SIZE] + 0.5).astype(np.float32)


@dataclass(frozen=True)
class Object:
    """One shape of one colour.

    Args:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`, or `None` for a colour no word names (then `rgb` says which).
        centre: (x, y) in pixels, from the upper left corner.
        radius: half the extent in pixels, about.
        rgb: the colour itself; by default the one the word stands for.

    Example:
        >>> Object("circle", "red", (20, 32), 12).rgb
        (222, 40, 40)
    """

    shape: str
    colour: str | None
    centre: tuple[float, float]
    radius: float
    rgb: tuple[float, float, float] = (-1, -1, -1)

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}; choose from {', '.join(SHAPES)}")
        if self.colour is not None and self.colour not in COLOURS:
            raise ValueError(f"unknown colour {self.colour!r}; choose from {', '.join(COLOURS)}")
        if self.rgb[0] < 0:
            if self.colour is None:
                raise ValueError("an object without a colour word needs its rgb")
            object.__setattr__(self, "rgb", COLOURS[self.colour])

    @property
    def size(self) -> str:
        """`"small"`, `"medium"` or `"large"`, by the radius."""
        return "small" if self.radius < SMALL else "large" if self.radius > LARGE else "medium"


def _star(x: Array, y: Array, r: float) -> Array:
    outer, inner, wedge = 1.12 * r, 0.515 * r, math.pi / 5
    # Fold the plane into one of ten wedges, where the outline is a single segment from a tip to an inner corner.
    angle = np.abs((np.arctan2(x, -y) + wedge) % (2 * wedge) - wedge)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    edge = (inner * math.cos(wedge) - outer, inner * math.sin(wedge))
    inside: Array = ((outer - along) * edge[1] + across * edge[0]) / math.hypot(*edge)
    return inside


def _triangle(x: Array, y: Array, r: float) -> Array:
    slope = 0.98 / 1.75
    inside: Array = np.minimum(0.75 * r - y, ((y + r) * slope - np.abs(x)) / math.hypot(1, slope))
    return inside


def _cross(x: Array, y: Array, r: float) -> Array:
    far, near = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    inside: Array = np.minimum(r - far, 0.34 * r - near)
    return inside


_DEPTH: dict[str, Callable[[Array, Array, float], Array]] = {
    "circle": lambda x, y, r: r - np.hypot(x, y),
    "square": lambda x, y, r: 0.86 * r - np.maximum(np.abs(x), np.abs(y)),
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y, r: np.minimum(r - np.hypot(x, y), np.hypot(x, y) - 0.52 * r),
}


def coverage(thing: Object) -> Array:
    """How much of every pixel an object covers: `[64, 64]`, 0 to 1, smooth at the edges.

    Example:
        >>> float(coverage(Object("ring", "red", (32, 32), 12))[32, 32])
        0.0
    """
    depth = _DEPTH[thing.shape](_X - thing.centre[0], _Y - thing.centre[1], thing.radius)
    share: Array = np.clip(depth + 0.5, 0, 1)
    return share


def backdrop(name: str, rng: np.random.Generator | None = None) -> Array:
    """A background, `[64, 64, 3]`: a plain grey level, or stripes of two; with `rng`, a little off the mean.

    `"checkered"` and `"dotted"` are drawn too, though no caption names them: the autoencoder learns from more than the
    captions say.
    """
    if name in BACKGROUNDS and name != "striped":
        level = BACKGROUNDS[name] + (rng.uniform(-8, 8) if rng else 0.0)
        return np.full((SIZE, SIZE, 3), level, np.float32)
    dark, light, dx, dy = (
        (rng.uniform(165, 185), rng.uniform(220, 240), *rng.uniform(0, 16, 2)) if rng else (175, 230, 0, 0)
    )
    if name == "striped":
        where = (_Y + dy) % 10 < 5
    elif name == "checkered":
        where = ((_X + dx) // 8 + (_Y + dy) // 8) % 2 < 1
    elif name == "dotted":
        where = np.hypot((_X + dx) % 10 - 5, (_Y + dy) % 10 - 5) < 2.3
    else:
        raise ValueError(f"unknown background {name!r}; choose from {', '.join(BACKGROUNDS)}")
    return np.repeat(np.where(where, dark, light).astype(np.float32)[..., None], 3, axis=2)


def paint(
    things: Sequence[Object], background: str, rng: np.random.Generator | None = None
) -> tuple[Image, NDArray[np.bool_]]:
    """Draw objects in order, later ones over earlier ones.

    Args:
        things: what to draw.
        background: one of `BACKGROUNDS`.
        rng: where the small jitter of colours and grey levels comes from; without it there is none.

    Returns:
        The picture `[64, 64, 3]` and the pixels where each object is seen, `[objects, 64, 64]`.
    """
    picture = backdrop(background, rng)
    masks = np.zeros((len(things), SIZE, SIZE), np.bool_)
    for k, thing in enumerate(things):
        alpha = coverage(thing)
        rgb = np.asarray(thing.rgb, np.float32)
        if rng:
            rgb = np.clip(rgb + rng.uniform(-7, 7, 3), 0, 255)
        picture = picture + alpha[..., None] * (rgb - picture)
        masks[:k] &= alpha <= 0.5
        masks[k] = alpha > 0.5
    return np.clip(picture, 0, 255).astype(np.uint8), masks
