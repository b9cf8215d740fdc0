"""`after`, `every`, `when`: named limits on steps. Each makes a hook from a hook.

They take the hook second, ``after(10)(hook)``, because a limit is an object: it can have a name and be applied to any
hook. Each is made with `only`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.function_hooks import name_of
from sdprobe.core.limits.limited_hook import NamedLimit, Steps
from sdprobe.core.limits.only import only
from sdprobe.core.step import Step


@dataclass(frozen=True)
class StepLimit:
    """Limits a hook to some steps."""

    steps: Steps

    def __call__(self, hook: Hook | Hooks) -> Any:
        """Return the limited hook."""
        return only(hook, steps=self.steps)

    def __repr__(self) -> str:
        return repr(self.steps)


@dataclass(frozen=True)
class After(NamedLimit):
    """The steps from ``k`` on."""

    k: int

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index >= self.k

    def __repr__(self) -> str:
        return f"after({self.k})"


@dataclass(frozen=True)
class Every(NamedLimit):
    """The steps whose number is a multiple of ``k``."""

    k: int

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index % self.k == 0

    def __repr__(self) -> str:
        return f"every({self.k})"


@dataclass(frozen=True)
class When(NamedLimit):
    """The steps for which a function returns True."""

    predicate: Callable[[Step], bool]

    def __call__(self, step: Step) -> bool:
        return self.predicate(step)

    def __repr__(self) -> str:
        return f"when({name_of(self.predicate)})"


def after(k: int) -> StepLimit:
    """Limit a hook to the steps from ``k`` on, counted from 0.

    >>> import sdprobe
    >>> late = sdprobe.after(2)
    >>> latents = sdprobe.LatentRecorder()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[late(latents)], steps=4, progress=False)
    >>> late(latents), run[latents].indices
    (after(2)(LatentRecorder()), [2, 3])

    Args:
        k: how many steps to leave out, 0 or more.

    Raises:
        ValueError: for a number below 0.
    """
    return StepLimit(After(_whole("after", k, 0)))


def every(k: int) -> StepLimit:
    """Limit a hook to every ``k``-th step: 0, k, 2k, ...

    Step numbers are those of the run, also under other limits, so the order of limits does not matter.

    >>> import sdprobe
    >>> sdprobe.every(2)(sdprobe.after(5)(sdprobe.ScalePrompt(1.1)))
    every(2)(after(5)(ScalePrompt(1.1)))

    Args:
        k: 1 or more.

    Raises:
        ValueError: for a number below 1.
    """
    return StepLimit(Every(_whole("every", k, 1)))


def when(predicate: Callable[[Step], bool]) -> StepLimit:
    """Limit a hook to the steps for which a function returns True.

    >>> import sdprobe
    >>> calm = sdprobe.when(lambda step: step.sigma < 1)
    >>> latents = sdprobe.LatentRecorder()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[calm(latents)], steps=10, progress=False)
    >>> run[latents].indices
    [8, 9]

    Args:
        predicate: a function of the `Step`.

    Raises:
        TypeError: for something that is not a function.
    """
    if not callable(predicate):
        raise TypeError(f"when takes a function of the Step, such as lambda step: step.sigma < 1, not {predicate!r}")
    return StepLimit(When(predicate))


def _whole(name: str, k: object, least: int) -> int:
    if not isinstance(k, int) or isinstance(k, bool) or k < least:
        raise ValueError(f"{name}(k)(hook): k is a whole number from {least} on, not {k!r}")
    return k
