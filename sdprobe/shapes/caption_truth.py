"""Which captions are true of which pictures, exactly: the targets of contrastive training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from .captions import PLACES, RELATIONS, Statement, place, relation
from .drawing import BACKGROUNDS, COLOURS, SHAPES, Object
from .scenes import Scene

_MOST = 3
_UNSAID, _NOTHING, _ABSENT = -1, -2, -3
_SIZES = ("small", "medium", "large")


def _code(words: Sequence[str], word: str | None, missing: int) -> int:
    return missing if word is None else list(words).index(word)


@dataclass(frozen=True)
class Facts:
    """What is so in each of many scenes, as numbers; row by row comparable with `Claims`."""

    count: NDArray[np.int64]
    things: NDArray[np.int64]
    relations: NDArray[np.int64]
    place: NDArray[np.int64]
    background: NDArray[np.int64]

    def __getitem__(self, rows: NDArray[np.int64]) -> "Facts":
        return Facts(self.count[rows], self.things[rows], self.relations[rows], self.place[rows], self.background[rows])


Claims = Facts
"""What each of many captions says; `relations` then has one column instead of one for every pair of objects."""


def facts(scenes: Sequence[Scene]) -> Facts:
    """The facts of scenes."""

    def thing(o: Object) -> tuple[int, int, int]:
        return _SIZES.index(o.size), _code(list(COLOURS), o.colour, _NOTHING), SHAPES.index(o.shape)

    things = np.full((len(scenes), _MOST, 3), _ABSENT)
    relations = np.full((len(scenes), _MOST, _MOST), _NOTHING)
    for row, own in enumerate(scenes):
        for i, first in enumerate(own.objects):
            things[row, i] = thing(first)
            for j, second in enumerate(own.objects):
                relations[row, i, j] = list(RELATIONS).index(relation(first, second)) if i != j else _NOTHING
    return Facts(
        np.array([len(s.objects) for s in scenes]),
        things,
        relations,
        np.array([_code(list(PLACES), place(s.objects[0]), _NOTHING) for s in scenes]),
        np.array([list(BACKGROUNDS).index(s.background) for s in scenes]),
    )


def claims(statements: Sequence[Statement]) -> Claims:
    """The claims of captions."""
    things = np.full((len(statements), _MOST, 3), _UNSAID)
    for row, own in enumerate(statements):
        for k, said in enumerate(own.mentions):
            things[row, k] = (
                _code(_SIZES, said.size, _UNSAID),
                _code(list(COLOURS), said.colour, _UNSAID),
                _code(SHAPES, said.shape, _UNSAID),
            )
    return Claims(
        np.array([len(s.mentions) for s in statements]),
        things,
        np.array([_code(list(RELATIONS), s.relation, _UNSAID) for s in statements]),
        np.array([_code(list(PLACES), s.place, _UNSAID) for s in statements]),
        np.array([_code(list(BACKGROUNDS), s.background, _UNSAID) for s in statements]),
    )


def truth(scenes: Facts, captions: Claims) -> NDArray[np.bool_]:
    """`[scenes, captions]`: whether the caption is true of the scene and counts its objects.

    A caption's objects may be any of the scene's, in any order; what it leaves unsaid may be anything. A medium object
    is not called small or large, but an object called neither may be either.
    """
    matched = np.zeros((len(scenes.count), len(captions.count)), np.bool_)
    for order in permutations(range(_MOST)):
        seen = scenes.things[:, None, list(order)]
        agree = ((captions.things == _UNSAID) | (captions.things == seen)).all((2, 3))
        relations = scenes.relations[:, order[0], order[1]][:, None]
        agree &= (captions.relations == _UNSAID) | (captions.relations == relations)
        # An absent object must not stand for a mention that says nothing of it.
        first_absent = (scenes.things[:, list(order), 2] == _ABSENT).argmax(1)
        first_absent = np.where(scenes.count == _MOST, _MOST, first_absent)
        matched |= agree & (first_absent >= scenes.count)[:, None]
    matched &= scenes.count[:, None] == captions.count
    matched &= (captions.place == _UNSAID) | (captions.place == scenes.place[:, None])
    result: NDArray[np.bool_] = matched & (
        (captions.background == _UNSAID) | (captions.background == scenes.background[:, None])
    )
    return result
