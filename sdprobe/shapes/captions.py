"""What a caption says of a scene, and whether it is true.

A caption is made from a `Statement`: which objects it names and how, their relation, the place of a single one, the
background. Statements are what can be compared with a scene exactly, word by word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .drawing import SIZE, Object

RELATIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "left": (("left", "of"), ("to", "the", "left", "of")),
    "right": (("right", "of"), ("to", "the", "right", "of")),
    "above": (("above",),),
    "below": (("below",), ("under",)),
}
"""Relations of the first object to the second, and the ways to say each."""

JOINS: tuple[tuple[str, ...], ...] = (("and",), ("next", "to"), ("with",))
"""Ways to name two objects without saying how they lie."""

SIZES: dict[str, tuple[str, ...]] = {"small": ("small", "tiny"), "large": ("large", "big")}
"""Sizes and their words; a medium object has none."""

PLACES: dict[str, tuple[str, ...]] = {
    "left": ("on", "the", "left"),
    "right": ("on", "the", "right"),
    "top": ("at", "the", "top"),
    "bottom": ("at", "the", "bottom"),
    "middle": ("in", "the", "middle"),
}
"""Places of a single object, and how each is said."""

OPENINGS: tuple[tuple[str, ...], ...] = (
    ("a", "photo", "of"),
    ("a", "picture", "of"),
    ("a", "drawing", "of"),
    ("an", "image", "of"),
)
"""Words a caption may begin with; they say nothing."""


_Words = TypeVar("_Words", str, tuple[str, ...])


@dataclass(frozen=True)
class Mention:
    """What a caption says of one object, and which of its words say it (indices into the words; `None`: unsaid)."""

    size: str | None
    colour: str | None
    shape: str | None
    colour_word: int | None
    shape_word: int


@dataclass(frozen=True)
class Statement:
    """A caption and all it claims.

    `mentions` follow the scene's objects: the k-th mention is of the k-th object. `relation` is the first object's to
    the second.
    """

    words: tuple[str, ...]
    mentions: tuple[Mention, ...]
    relation: str | None
    place: str | None
    background: str | None

    @property
    def text(self) -> str:
        """The caption as a string."""
        return " ".join(self.words).replace(" ,", ",")


def relation(first: Object, second: Object) -> str:
    """How the first object lies to the second, along the axis in which they are farther apart.

    Example:
        >>> relation(Object("ring", "red", (14, 30), 9), Object("star", "blue", (48, 35), 9))
        'left'
    """
    dx, dy = second.centre[0] - first.centre[0], second.centre[1] - first.centre[1]
    if abs(dx) > abs(dy):
        return "left" if dx > 0 else "right"
    return "above" if dy > 0 else "below"


def place(thing: Object) -> str | None:
    """Where a single object is, if it can be said in a word."""
    dx, dy = thing.centre[0] - SIZE / 2, thing.centre[1] - SIZE / 2
    if max(abs(dx), abs(dy)) < 5:
        return "middle"
    if abs(dx) > 1.3 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > 1.3 * abs(dx):
        return "top" if dy < 0 else "bottom"
    return None


def describe(
    things: Sequence[Object], background: str, rng: np.random.Generator | None = None, full: bool = False
) -> Statement:
    """Make a true caption of a scene.

    Args:
        things: the objects, in the order in which the caption names them.
        background: its name.
        rng: chooses what is said and how; without it everything is said, in the plainest words.
        full: name every colour and every shape (otherwise one is left out now and then).

    Example:
        >>> scene = [Object("circle", "red", (20, 32), 12), Object("star", "orange", (48, 32), 10)]
        >>> describe(scene, "white").text
        'a red circle left of a small orange star on a white background'
    """

    def chance(p: float) -> bool:
        return rng is None or bool(rng.random() < p)

    def pick(options: Sequence[_Words]) -> _Words:
        return options[int(rng.integers(len(options))) if rng else 0]

    words: list[str] = []
    mentions: list[Mention] = []

    def name(thing: Object) -> None:
        # Three objects have too little room for their sizes to differ, so none is called small there.
        size = thing.size if thing.size in SIZES and len(things) < 3 and chance(0.6) else None
        left_out = rng.random() if rng and not full else 1.0
        colour = None if left_out < 0.08 else thing.colour
        shape = None if 0.08 <= left_out < 0.14 else thing.shape
        said = ([pick(SIZES[size])] if size else []) + ([colour] if colour else []) + [shape or "shape"]
        words.append("an" if said[0] == "orange" else "a")
        words.extend(said)
        mentions.append(Mention(size, colour, shape, len(words) - 2 if colour else None, len(words) - 1))

    if rng and chance(0.25):
        words.extend(pick(OPENINGS))
    name(things[0])
    said_relation = said_place = None
    if len(things) == 1:
        said_place = place(things[0]) if rng and chance(0.35) else None
        words.extend(PLACES[said_place] if said_place else ())
    elif len(things) == 2:
        said_relation = relation(*things) if chance(0.7) else None
        words.extend(pick(RELATIONS[said_relation] if said_relation else JOINS))
        name(things[1])
    else:
        for k, thing in enumerate(things[1:], start=2):
            words.append("and" if k == len(things) else ",")
            name(thing)
    said_background = background if chance(0.5) else None
    words.extend(("on", "a", background, "background") if said_background else ())
    return Statement(tuple(words), tuple(mentions), said_relation, said_place, said_background)
