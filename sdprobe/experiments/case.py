"""`Case` and `cases`: what an experiment is repeated over: prompts, seeds and images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from operator import index
from os import PathLike
from pathlib import Path
from string import Formatter
from types import MappingProxyType, NoneType
from typing import Any

from PIL.Image import Image


@dataclass(frozen=True)
class Case:
    """One prompt with one seed, and an image to start from, if any. Every condition is tried on the same cases.

    >>> case = Case("a red circle", seed=3, words={"colour": "red", "shape": "circle"})
    >>> case.fill("{colour}"), case.fill("circle")
    ('red', 'circle')

    Args:
        prompt: the text.
        seed: the seed of the noise, the same in all conditions.
        negative_prompt: the negative prompt; None for the model's own.
        image: an image to start from (PIL), or its path; None for pure noise.
        strength: how much of the image to replace, as in `sdprobe.sample`.
        words: words of this prompt by what they are for, so that one condition fits prompts of different words: where
            a condition or a measure takes a word, ``"{colour}"`` stands for this case's.
    """

    prompt: str
    seed: int = 0
    negative_prompt: str | None = None
    image: Any = field(default=None, repr=False, hash=False)
    strength: float | None = None
    words: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", MappingProxyType(dict(self.words)))
        object.__setattr__(self, "seed", index(self.seed))  # also of numpy
        if isinstance(self.image, (str, PathLike)):
            object.__setattr__(self, "image", Path(self.image))
        elif not isinstance(self.image, (Image, NoneType)):
            raise TypeError(f"an image is one of PIL, or a path, not a {type(self.image).__name__}")

    def fill(self, word: str) -> str:
        """Return a word or text with this case's own words in place of ``{...}``.

        Raises ValueError for a name in braces that this case has no word for.
        """
        wanted = [name for _, name, _, _ in Formatter().parse(word) if name is not None]
        if missing := [name for name in wanted if name not in self.words]:
            known = ", ".join(map(repr, self.words)) or "(none)"
            raise ValueError(
                f"{word!r} asks for the word of {missing[0]!r}, and the case {self.prompt!r} has words of {known}: "
                f"give them, as in Case({self.prompt!r}, words={{{missing[0]!r}: ...}})"
            )
        return word.format_map(self.words) if wanted else word

    def __reduce__(self) -> tuple[Any, ...]:
        own = (self.prompt, self.seed, self.negative_prompt, self.image, self.strength, dict(self.words))
        return type(self), own


def cases(
    prompts: str | Case | Iterable[str | Case],
    seeds: int | Iterable[int] | None = None,
    images: Sequence[Any] = (None,),
) -> list[Case]:
    """Return every prompt with every seed and every image.

    >>> [(own.prompt, own.seed) for own in cases(["a red circle", "a blue star"], seeds=range(2))]
    [('a red circle', 0), ('a red circle', 1), ('a blue star', 0), ('a blue star', 1)]

    Args:
        prompts: texts, or cases, of which each setting that is not given here is kept.
        seeds: the seeds; a number is one seed; None for that of each case, which is 0 for a text.
        images: images to start from.

    Raises ValueError for two that are the same: they would count twice as evidence.
    """
    given = [prompts] if isinstance(prompts, (str, Case)) else list(prompts)
    if not given:
        raise ValueError(
            "there are no cases: give prompts, such as sdprobe.experiments.cases(['a red circle'], seeds=range(8))"
        )
    some = [seeds] if isinstance(seeds, int) else seeds if seeds is None else list(seeds)
    found = []
    for own, seed, image in product(given, [None] if some is None else some, images):
        case = own if isinstance(own, Case) else Case(own)
        changes: dict[str, Any] = {name: new for name, new in (("seed", seed), ("image", image)) if new is not None}
        found.append(replace(case, **changes))
    refuse_repeated(found)
    return found


def refuse_repeated(given: Sequence[Case]) -> None:
    """Raise ValueError for two cases of the same picture, whatever their words are called."""
    numbers: dict[Case, int] = {}
    for k, case in enumerate(given):
        if (first := numbers.setdefault(replace(case, words={}), k)) != k:
            raise ValueError(
                f"case {k} is case {first} again, {case!r}: it would count twice as evidence; give it another seed"
            )
