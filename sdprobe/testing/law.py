"""`Law`: a named check of hooks, or of a family of models, with a line that describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LAST = 4


class Broken(AssertionError):
    """A hook, or a family, does not keep a law; the message says how."""


@dataclass(frozen=True)
class Law:
    """A law that hooks, or families of models, must keep.

    Args:
        name: the name of the function that checks it, with spaces.
        says: the law, in one line.
        trying: raises an error if the law is broken, and `DoesNotApply` if there is nothing to check.
        stage: the law is checked if every law of an earlier stage holds: 0 a call, 1 a run, 2 a second run, 3 a run at
            another time, 4 everything that compares runs.
    """

    name: str
    says: str
    trying: Callable[[Any], None] = field(repr=False)
    stage: int = LAST

    def __str__(self) -> str:
        return self.name


def law(stage: int = LAST) -> Callable[[Callable[[Any], None]], Law]:
    """Make a law from the function that checks it, with its name and the first line of its docstring."""

    def made(trying: Callable[[Any], None]) -> Law:
        assert trying.__doc__ is not None  # every law says what it holds
        return Law(trying.__name__.replace("_", " "), trying.__doc__.strip().splitlines()[0], trying, stage)

    return made
