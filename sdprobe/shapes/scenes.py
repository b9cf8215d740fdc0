"""Scenes whose truth is known: a picture, its caption, its objects, and the pixels of each.

Example:
    >>> example = scene(7, objects=2)
    >>> example.image.shape, example.masks.shape
    ((64, 64, 3), (2, 64, 64))
    >>> scene(7, objects=2).caption == example.caption
    True
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .captions import Statement, describe
from .drawing import BACKGROUNDS, COLOURS, LARGE, SHAPES, SIZE, SMALL, Image, Object, paint

RADII: dict[int, dict[str, tuple[float, float]]] = {
    1: {"small": (9.0, SMALL - 0.5), "medium": (12.0, 14.5), "large": (LARGE + 0.5, 19.0)},
    2: {"small": (9.0, SMALL - 0.5), "medium": (11.5, 14.0), "large": (LARGE + 0.3, 16.5)},
    3: {"small": (8.0, 10.5)},
}
"""Radii (pixels) of each size, by how many objects share the picture."""


@dataclass(frozen=True)
class Scene:
    """A picture and all that is true of it.

    Attributes:
        image: `[64, 64, 3]`, uint8.
        masks: where each object is seen, `[objects, 64, 64]`.
        objects: in the order in which the caption names them.
        background: its name, said or not.
        statement: the caption, and what it claims.
    """

    image: Image
    masks: NDArray[np.bool_]
    objects: tuple[Object, ...]
    background: str
    statement: Statement

    @property
    def caption(self) -> str:
        """The caption as a string."""
        return self.statement.text


def render(
    objects: Sequence[Object], background: str = "white", seed: int | np.random.Generator | None = None
) -> Scene:
    """Draw a chosen scene.

    Args:
        objects: what to draw; the caption names them in this order.
        background: one of `BACKGROUNDS`.
        seed: for jitter and the wording; without it colours are exact and the caption says everything plainly.

    Example:
        >>> picture = render([Object("circle", "red", (20, 32), 12)], background="grey")
        >>> picture.caption, picture.image[32, 20].tolist()
        ('a red circle on a grey background', [222, 40, 40])
    """
    if not objects:
        raise ValueError("a scene needs at least one object")
    rng = None if seed is None else np.random.default_rng(seed)
    image, masks = paint(objects, background, rng)
    return Scene(image, masks, tuple(objects), background, describe(objects, background, rng, full=rng is None))


def scene(
    seed: int | np.random.Generator, objects: int | None = None, background: str | None = None, full: bool = False
) -> Scene:
    """Draw a random scene; the same seed gives the same scene.

    Args:
        seed: a number, or a generator to draw from.
        objects: how many, 1 to 3; by default mostly one or two.
        background: one of `BACKGROUNDS`; by default any.
        full: every object has a named colour and shape, the caption says both, and no two share a colour: such
            captions decide exactly what must be seen.
    """
    rng = np.random.default_rng(seed)
    count = objects or int(rng.choice([1, 2, 3], p=[0.45, 0.47, 0.08]))
    if count not in RADII:
        raise ValueError(f"a random scene holds 1 to 3 objects, not {count}")
    things = arrange(rng, count, full)
    where = background or str(rng.choice(list(BACKGROUNDS)))
    image, masks = paint(things, where, rng)
    return Scene(image, masks, things, where, describe(things, where, rng, full))


def arrange(rng: np.random.Generator, count: int, full: bool = False) -> tuple[Object, ...]:
    """Choose objects that do not touch; of two, one axis clearly says how they lie."""
    while True:
        things: list[Object] = []
        for _ in range(count):
            size = str(rng.choice(["small", "medium", "large"], p=[0.15, 0.55, 0.3])) if count < 3 else "small"
            radius = float(rng.uniform(*RADII[count][size]))
            x, y = (float(v) for v in rng.uniform(radius + 1.5, SIZE - radius - 1.5, 2))
            colour, rgb = _unnamed(rng) if not full and rng.random() < 0.08 else (str(rng.choice(list(COLOURS))), None)
            thing = Object(str(rng.choice(SHAPES)), colour, (x, y), radius, *([rgb] if rgb else []))
            if any(math.dist(thing.centre, o.centre) < 1.1 * (radius + o.radius) + 1 for o in things):
                break
            things.append(thing)
        if len(things) < count or len({(o.shape, o.colour) for o in things}) < count:
            continue
        if full and len({o.colour for o in things}) < count:
            continue
        if count == 2:
            low, high = sorted(abs(a - b) for a, b in zip(things[0].centre, things[1].centre, strict=True))
            if high < 1.4 * low + 3:
                continue
        return tuple(things)


def _unnamed(rng: np.random.Generator) -> tuple[None, tuple[float, float, float]]:
    """A colour far from every named one and from the greys of the backgrounds."""
    while True:
        r, g, b = (float(v) for v in rng.uniform(0, 255, 3))
        if max(r, g, b) - min(r, g, b) > 40 and all(math.dist((r, g, b), c) > 60 for c in COLOURS.values()):
            return None, (r, g, b)


def pair(seed: int | np.random.Generator, objects: int | None = None) -> tuple[Scene, Scene]:
    """Two scenes that differ in one thing only: colours or identities exchanged, a colour, a shape or the background.

    Each has a caption of its own wording. Told apart, they teach which word belongs to which object.
    """
    rng = np.random.default_rng(seed)
    first = scene(rng, objects or int(rng.choice([1, 2, 3], p=[0.35, 0.57, 0.08])))
    things, where = list(first.objects), first.background
    i, j = (int(k) for k in rng.permutation(len(things))[:2]) if len(things) > 1 else (0, 0)
    lot = rng.random()
    if len(things) > 1 and lot < 0.3 and things[i].colour != things[j].colour:
        a, b = things[i], things[j]
        things[i], things[j] = replace(a, colour=b.colour, rgb=b.rgb), replace(b, colour=a.colour, rgb=a.rgb)
    elif len(things) > 1 and lot < 0.65:
        a, b = things[i], things[j]
        things[i], things[j] = (
            replace(b, centre=a.centre, radius=a.radius),
            replace(a, centre=b.centre, radius=b.radius),
        )
        if rng.random() < 0.5:  # or else the two captions would always name the same place first
            things.reverse()
    elif lot < 0.78:
        colour = str(rng.choice([c for c in COLOURS if c != things[i].colour]))
        things[i] = replace(things[i], colour=colour, rgb=COLOURS[colour])
    elif lot < 0.9:
        things[i] = replace(things[i], shape=str(rng.choice([s for s in SHAPES if s != things[i].shape])))
    else:
        where = str(rng.choice([b for b in BACKGROUNDS if b != where]))
    return first, render(things, where, rng)
