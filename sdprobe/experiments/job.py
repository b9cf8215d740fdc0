"""`Job`: some conditions of one case, as a plain description that can be sent to another process and has a hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sdprobe.core.given_hooks import Given
from sdprobe.core.hook_configuration import to_config
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import SampleSettings
from sdprobe.experiments.condition import Condition, Design
from sdprobe.experiments.description import describe, fingerprint
from sdprobe.experiments.measures.measure import Measure

SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """What one worker does at a time: the untouched condition and some others, of one case.

    Args:
        model: what makes the pictures, by the hash of its weights and its class.
        case: the case.
        conditions: the conditions by name, or the design that makes them.
        names: of those conditions, the ones of this job.
        measures: the measures by name.
        hooks: hooks in every condition, which the measures read.
        settings: of `sdprobe.sample`.
    """

    model: str
    case: Case
    conditions: Mapping[str, Condition] | Design
    names: tuple[str, ...]
    measures: Mapping[str, Measure]
    hooks: Given = ()
    settings: SampleSettings = field(default_factory=SampleSettings)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Everything that its results depend on, as JSON holds it.

        Raises ValueError for a hook that cannot be written as a name and a configuration, and TypeError for a measure
        of which nothing lasting can be said.
        """
        own = self.conditions
        said = describe(own, "the design") if isinstance(own, Design) else {name: _of(own[name]) for name in self.names}
        return {
            "schema": SCHEMA,
            "model": self.model,
            "case": describe(self.case, "the case"),
            "conditions": said,
            "names": list(self.names),
            "measures": describe(self.measures, "measures"),
            "hooks": to_config(self.hooks),
            "settings": describe(self.settings, "settings"),
        }

    @property
    def id(self) -> str:
        """The hash of the description."""
        return fingerprint(self.description)

    def written(self) -> Job:
        """Return the same job with its hooks as pairs of name and configuration, to be sent to another process.

        Raises ValueError for a hook that cannot be written so.
        """
        own = self.conditions
        if not isinstance(own, Design):
            own = {name: replace(own[name], hooks=_pairs(own[name])) for name in self.names}
        return replace(self, conditions=own, hooks=to_config(self.hooks))


def _of(condition: Condition) -> dict[str, Any]:
    return {"hooks": _pairs(condition), "control": condition.control, "labels": dict(condition.labels)}


def _pairs(condition: Condition) -> list[list[Any]]:
    return to_config(condition.hooks() if callable(condition.hooks) else condition.hooks)


def in_jobs(names: Sequence[str], batch: int) -> list[tuple[str, ...]]:
    """Divide the conditions of a case among jobs, each with the untouched one in its batch.

    >>> in_jobs("abcde", batch=3)
    [('a', 'b'), ('c', 'd'), ('e',)]
    """
    each = max(batch - 1, 1)
    return [tuple(names[k : k + each]) for k in range(0, max(len(names), 1), each)]
