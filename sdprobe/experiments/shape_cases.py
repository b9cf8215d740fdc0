"""`shape_cases`: prompts of the embedded model's world, of which each word is known."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from sdprobe.experiments.case import Case
from sdprobe.shapes import COLOURS, RELATIONS, SHAPES

APART = 1_000_000
"""How far the seeds of two draws are apart."""


def shape_cases(count: int, objects: int = 1, seed: int = 0) -> list[Case]:
    """Draw cases of the embedded model: prompts of coloured shapes, with their words by what they are for.

    >>> case = shape_cases(1, objects=2)[0]
    >>> case.prompt, case.fill("{colour} {shape}"), case.fill("{relation}"), case.fill("{other_shape}")
    ('a cyan star right of a yellow square', 'cyan star', 'right', 'square')
    >>> [case.prompt for case in shape_cases(3)] == [case.prompt for case in shape_cases(5)[:3]]
    True

    No prompt comes twice before every prompt has come: there are 48 of one object and 6,720 of two. The k-th case has
    the noise of seed k; with another ``seed``, k and a million times that.

    Args:
        count: how many cases.
        objects: 1, as in ``"a red circle"``; 2, as in ``"a red circle left of a blue square"``, of two colours, two
            shapes and a relation that the model was trained on.
        seed: of the draw.

    Returns:
        Cases with the words ``colour`` and ``shape``; of two objects also ``other_colour``, ``other_shape`` and
        ``relation``, which is one of `sdprobe.shapes.RELATIONS` and a word of the prompt.

    Raises ValueError for another number of objects, and for a count below 1.
    """
    if objects not in (1, 2):
        raise ValueError(f"shape cases are of 1 object or 2, not {objects}")
    if count < 1:
        raise ValueError(f"count is how many cases to draw, 1 or more, not {count}")
    every = _of_one() if objects == 1 else _of_two()
    order = np.random.default_rng(seed).permutation(len(every))
    drawn = (every[order[k % len(every)]] for k in range(count))
    return [Case(_prompt(words), seed=k + APART * seed, words=words) for k, words in enumerate(drawn)]


def _of_one() -> list[dict[str, str]]:
    return [{"colour": colour, "shape": shape} for colour, shape in product(COLOURS, SHAPES)]


def _of_two() -> list[dict[str, str]]:
    names = ("colour", "other_colour", "shape", "other_shape", "relation")
    every = product(permutations(COLOURS, 2), permutations(SHAPES, 2), RELATIONS)
    return [dict(zip(names, (*colours, *shapes, relation), strict=True)) for colours, shapes, relation in every]


def _prompt(words: dict[str, str]) -> str:
    first = _named(words["colour"], words["shape"])
    if "relation" not in words:
        return first
    plainest = " ".join(RELATIONS[words["relation"]][0])
    return f"{first} {plainest} {_named(words['other_colour'], words['other_shape'])}"


def _named(colour: str, shape: str) -> str:
    return f"{'an' if colour == 'orange' else 'a'} {colour} {shape}"
