"""`Condition` and `Design`: under what hooks the cases are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sdprobe.core.given_hooks import Given
from sdprobe.experiments.case import Case

if TYPE_CHECKING:
    from sdprobe.experiments.case_runner import CaseRunner
    from sdprobe.experiments.result import Result

UNTOUCHED = "untouched"
Label = str | int | float
COLUMNS = ("case", "prompt", "seed", "condition", "control", "measure", "value", "untouched", "unchanged", "error")


class NotInThisCase(ValueError):
    """A condition, or its control, that a case does not allow, such as a word that its picture does not show.

    It is a row with an error, which is final: a second start does not try it again.
    """


@dataclass(frozen=True)
class Condition:
    """Hooks under which a case is tried, and what the table says of them.

    Args:
        hooks: anything that `sdprobe.sample` takes as hooks, or a function that makes it when it is needed, which may
            take a run of its own.
        control: whether it is a control: what nothing is expected of.
        labels: further columns of the table, such as ``{"share": 0.1}``.
        prompt: another prompt in place of the case's; None for the case's. It is then a run by itself, so that nothing
            of it, such as the number of its tokens, is that of the case's prompt.
    """

    hooks: Given | Callable[[], Given]
    control: bool = False
    labels: Mapping[str, Label] = field(default_factory=dict)
    prompt: str | None = None

    def __post_init__(self) -> None:
        if taken := [name for name in self.labels if name in COLUMNS]:
            raise ValueError(f"the label {taken[0]!r} is a column of every table: call it something else")


@runtime_checkable
class Design(Protocol):
    """Conditions that are made for each case: those of the ready experiments, and one's own.

    It is a frozen dataclass of plain fields, so that it can be sent to another process and told from another. It makes
    the same conditions each time it is asked.
    """

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return the conditions of a case, by name.

        Nothing is run here: what needs a run (`CaseRunner.run`) is in `Condition.hooks` as a function.
        """
        ...

    def result(self) -> type[Result]:
        """Return the class of the result: `Result`, or one that shows more."""
        ...


def refuse_untouched(names: Any) -> None:
    """Raise ValueError if a condition is called as the one that every experiment has."""
    if UNTOUCHED in names:
        raise ValueError(
            f"{UNTOUCHED!r} is the condition without hooks, which every experiment has: name yours another"
        )
