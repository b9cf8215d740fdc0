"""`Target`: what the heat map of a word is held against: where the thing that it stands for really is."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from sdprobe.experiments.case import Case
from sdprobe.experiments.measures.region import Detected, Region, refuse_no_region


@dataclass(frozen=True)
class Target:
    """A word, and the region of the picture that it stands for.

    >>> from sdprobe.experiments import shape_cases
    >>> one, two = shape_cases(1)[0], shape_cases(1, objects=2)[0]
    >>> [target.fits(one) for target in TARGETS], [target.fits(two) for target in TARGETS]
    ([True, False], [True, True])

    Args:
        word: the word whose map is made; ``"{colour}"`` is the case's own.
        region: where the thing is, such as ``Detected("{colour} {shape}")``.
        phrase: what is hidden to see what the picture loses; None for the word.

    Raises TypeError for what is no region.
    """

    word: str
    region: Region
    phrase: str | None = None

    def __post_init__(self) -> None:
        refuse_no_region(self.region)

    def fits(self, case: Case) -> bool:
        """Return whether a case has the words that the target names."""
        asked = Formatter().parse(f"{self.word} {self.phrase or ''}")
        return all(name is None or name in case.words for _, name, _, _ in asked)


TARGETS = tuple(
    Target(f"{{{of}colour}}", Detected(f"{{{of}colour}} {{{of}shape}}"), f"{{{of}colour}} {{{of}shape}}")
    for of in ("", "other_")
)
"""The things that the embedded model is asked for, by their colour words."""
