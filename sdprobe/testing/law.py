"""A law that hooks keep: one small function with a name, and a line that says what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sdprobe.testing.trial import Trial

LAST = 4


class Broken(AssertionError):
    """A hook does not keep a law; the message says how."""


@dataclass(frozen=True)
class Law:
    """What a hook is held to.

    Args:
        name: what the function that tries it is called.
        says: the law, in one line.
        trying: raises where it is not kept, and `DoesNotApply` where there is nothing to try.
        stage: it is tried where every law of an earlier stage is kept: 0 a call, 1 a run, 2 a second run, 3 a run
            elsewhere in time, 4 everything that is found by holding runs against each other.
    """

    name: str
    says: str
    trying: Callable[[Trial], None] = field(repr=False)
    stage: int = LAST

    def __str__(self) -> str:
        return self.name


def law(stage: int = LAST) -> Callable[[Callable[[Trial], None]], Law]:
    """Makes a law of the function that tries it: named after it, and saying the first line of its docstring."""

    def made(trying: Callable[[Trial], None]) -> Law:
        assert trying.__doc__ is not None  # every law says what it holds
        return Law(trying.__name__.replace("_", " "), trying.__doc__.strip().splitlines()[0], trying, stage)

    return made
