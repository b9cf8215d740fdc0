"""What a picture of the embedded model shows, by its detector: truth, not a proxy.

>>> import sdprobe
>>> case = Case("a blue circle", words={"colour": "blue", "shape": "circle", "background": "black"})
>>> run = sdprobe.sample(sdprobe.load(), case.prompt, steps=4, seed=0, progress=False)
>>> ColourShown()(run, run, case), ShapeShown()(run, run, case), ShapeShown("star")(run, run, case)
(True, True, False)
>>> ObjectShown()(run, run, case), ObjectShown("red", "{shape}")(run, run, case), BackgroundShown()(run, run, case)
(True, False, False)
>>> ObjectCount()(run), ObjectOverlap()(run, run, case), ObjectOverlap("red")(run, run, case)
(1, 1.0, None)
>>> RelationShown("blue circle", "red star", "left")(run, run, case) is None
True
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.measures.things_seen import (
    Thing,
    pixels_of,
    refuse_unknown,
    refuse_unknown_words,
    said,
    things_in,
)
from sdprobe.shapes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Object, background, relation


@dataclass(frozen=True)
class ColourShown:
    """Whether something of a colour is seen.

    >>> ColourShown(), ColourShown("{other_colour}").name
    (ColourShown(word='{colour}'), 'other_colour shown')
    >>> ColourShown("crimson")
    Traceback (most recent call last):
    ValueError: 'crimson' is no colour that can be detected: choose from red, orange, yellow, green, cyan, blue, ...

    Args:
        word: one of `sdprobe.shapes.COLOURS`; ``"{...}"`` is a word of the case.

    Raises ValueError for another word, and for pictures of another size than the embedded model's.
    """

    word: str = "{colour}"

    def __post_init__(self) -> None:
        refuse_unknown(self.word, COLOURS, "colour")

    @property
    def name(self) -> str:
        return f"{said(self.word)} shown"

    def __call__(self, run: Run, untouched: Run, case: Case) -> bool:
        refuse_unknown(word := case.fill(self.word), COLOURS, "colour")
        return any(own.colour == word for own in things_in(run))


@dataclass(frozen=True)
class ShapeShown:
    """Whether something of a shape is seen, of any colour.

    >>> ShapeShown(), ShapeShown("star").name
    (ShapeShown(word='{shape}'), 'star shown')

    Args:
        word: one of `sdprobe.shapes.SHAPES`; ``"{...}"`` is a word of the case.

    Raises ValueError as `ColourShown` does.
    """

    word: str = "{shape}"

    def __post_init__(self) -> None:
        refuse_unknown(self.word, SHAPES, "shape")

    @property
    def name(self) -> str:
        return f"{said(self.word)} shown"

    def __call__(self, run: Run, untouched: Run, case: Case) -> bool:
        refuse_unknown(word := case.fill(self.word), SHAPES, "shape")
        return any(own.shape == word for own in things_in(run))


@dataclass(frozen=True)
class ObjectShown:
    """Whether one thing is seen that has both a colour and a shape.

    >>> ObjectShown(), ObjectShown("blue", "{shape}").name
    (ObjectShown(colour='{colour}', shape='{shape}'), 'blue shape shown')

    Args:
        colour: one of `sdprobe.shapes.COLOURS`; ``"{...}"`` is a word of the case.
        shape: one of `sdprobe.shapes.SHAPES`, likewise.

    Raises ValueError as `ColourShown` does.
    """

    colour: str = "{colour}"
    shape: str = "{shape}"

    def __post_init__(self) -> None:
        refuse_unknown(self.colour, COLOURS, "colour")
        refuse_unknown(self.shape, SHAPES, "shape")

    @property
    def name(self) -> str:
        return f"{said(self.colour)} {said(self.shape)} shown"

    def __call__(self, run: Run, untouched: Run, case: Case) -> bool:
        refuse_unknown(colour := case.fill(self.colour), COLOURS, "colour")
        refuse_unknown(shape := case.fill(self.shape), SHAPES, "shape")
        return Thing(colour, shape).seen(things_in(run)) is not None


@dataclass(frozen=True)
class RelationShown:
    """Whether one thing lies to another as asked, along the axis in which they are farther apart.

    It returns None where not both are seen.

    >>> RelationShown("red circle", "blue square", "to the left of").name, RelationShown().name
    ('to the left of shown', 'relation shown')

    Args:
        first: a colour, a shape, or both, as in ``"red circle"``; ``"{...}"`` is a word of the case.
        second: another thing, likewise.
        relation: one of `sdprobe.shapes.RELATIONS`, or another way to say it, such as ``"to the left of"``.

    With the words of `sdprobe.experiments.shape_cases` of two objects, nothing need be given.

    Raises ValueError as `ColourShown` does.
    """

    first: str = "{colour} {shape}"
    second: str = "{other_colour} {other_shape}"
    relation: str = "{relation}"

    def __post_init__(self) -> None:
        refuse_unknown_words(self.first)
        refuse_unknown_words(self.second)
        if "{" not in self.relation:
            _relation_of(self.relation)

    @property
    def name(self) -> str:
        return f"{said(self.relation)} shown"

    def __call__(self, run: Run, untouched: Run, case: Case) -> bool | None:
        asked = _relation_of(case.fill(self.relation))
        first, second = (Thing.of(case.fill(own)) for own in (self.first, self.second))
        pairs = (pair for pair in permutations(things_in(run), 2) if first.fits(pair[0]) and second.fits(pair[1]))
        if (seen := next(pairs, None)) is None:
            return None
        # How two objects lie depends on their centres alone.
        return relation(*(Object(SHAPES[0], own.colour, own.centre, 1.0) for own in seen)) == asked


@dataclass(frozen=True)
class BackgroundShown:
    """Whether the background is the one asked for.

    >>> BackgroundShown("black").name
    'black background shown'

    Args:
        word: one of `sdprobe.shapes.BACKGROUNDS`; ``"{...}"`` is a word of the case.

    Raises ValueError as `ColourShown` does.
    """

    word: str = "{background}"

    def __post_init__(self) -> None:
        refuse_unknown(self.word, BACKGROUNDS, "background")

    @property
    def name(self) -> str:
        own = said(self.word)
        return "background shown" if own == "background" else f"{own} background shown"

    def __call__(self, run: Run, untouched: Run, case: Case) -> bool:
        refuse_unknown(word := case.fill(self.word), BACKGROUNDS, "background")
        return background(pixels_of(run), things_in(run)) == word


@dataclass(frozen=True)
class ObjectCount:
    """How many coloured things are seen, also those that are like none of the shapes.

    >>> ObjectCount().name
    'object count'

    Raises ValueError for pictures of another size than the embedded model's.
    """

    @property
    def name(self) -> str:
        return "object count"

    def __call__(self, run: Run) -> int:
        return len(things_in(run))


@dataclass(frozen=True)
class ObjectOverlap:
    """Intersection over union of a thing's pixels with its pixels in the untouched picture.

    It is 0 where the thing is no longer seen, and None where it was not seen in the untouched picture. Of several
    things that fit, the largest counts in each picture.

    >>> ObjectOverlap("{shape}").name
    'overlap of shape'

    Args:
        thing: a colour, a shape, or both, as in ``"red circle"``; ``"{...}"`` is a word of the case.

    Raises ValueError as `ColourShown` does.
    """

    thing: str = "{colour} {shape}"

    def __post_init__(self) -> None:
        refuse_unknown_words(self.thing)

    @property
    def name(self) -> str:
        return f"overlap of {said(self.thing)}"

    def __call__(self, run: Run, untouched: Run, case: Case) -> float | None:
        thing = Thing.of(case.fill(self.thing))
        now, before = (thing.seen(things_in(own)) for own in (run, untouched))
        if before is None:
            return None
        if now is None:
            return 0.0
        return float((now.mask & before.mask).sum() / (now.mask | before.mask).sum())


def _relation_of(words: str) -> str:
    """Return the relation that words say."""
    for name, ways in RELATIONS.items():
        if words == name or tuple(words.split()) in ways:
            return name
    known = [*RELATIONS, *(" ".join(way) for ways in RELATIONS.values() for way in ways if len(way) > 1), "under"]
    raise ValueError(f"{words!r} is no relation that can be detected: choose from {', '.join(known)}")
