"""`Job`: some conditions of one case, as a plain description that can be sent to another process and has a hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sdprobe.core.given_hooks import Given
from sdprobe.core.hook_configuration import to_config
from sdprobe.core.provenance import versions
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import SampleSettings
from sdprobe.experiments.condition import Condition, Design
from sdprobe.experiments.description import describe, describe_hooks, fingerprint
from sdprobe.experiments.measures.measure import Measure

SCHEMA = 1
BATCH = 8


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
        alone: whether each condition is a run of its own, not one image of a batch.
        labels: of the conditions by name, whether each is a control, and its labels: what the rows of a lost job say.
    """

    model: str
    case: Case
    conditions: Mapping[str, Condition] | Design
    names: tuple[str, ...]
    measures: Mapping[str, Measure]
    hooks: Given = ()
    settings: SampleSettings = field(default_factory=SampleSettings)
    alone: bool = False
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Everything that its results depend on, as JSON holds it: also the version of sdprobe.

        Raises ValueError for a hook that cannot be written as a name and a configuration, and TypeError for a measure
        of which nothing lasting can be said.
        """
        own = self.conditions
        if isinstance(own, Design):
            said = describe(own, "the design")
        else:
            said = {name: _of(own[name], self._made[name]) for name in self.names}
        return {
            "schema": SCHEMA,
            "sdprobe": versions()["sdprobe"],
            "model": self.model,
            "case": describe(self.case, "the case"),
            "conditions": said,
            "names": list(self.names),
            "measures": describe(self.measures, "measures"),
            "hooks": describe_hooks(self.hooks),
            "settings": describe(self.settings, "settings"),
            "alone": self.alone,
        }

    @cached_property
    def id(self) -> str:
        """The hash of the description."""
        return fingerprint(self.description)

    def written(self) -> Job:
        """Return the same job with its hooks as pairs of name and configuration, to be sent to another process.

        Raises ValueError for a hook that cannot be written so.
        """
        own = self.conditions
        if not isinstance(own, Design):
            own = {name: replace(own[name], hooks=_pairs(self._made[name])) for name in self.names}
        made = replace(self, conditions=own, hooks=_pairs(self.hooks))
        # Another process may know a function by another name, and need not compute what is known.
        vars(made).update({name: vars(self)[name] for name in ("description", "id") if name in vars(self)})
        return made

    @cached_property
    def _made(self) -> dict[str, Given]:
        """The hooks of each condition, made once where a function makes them."""
        assert not isinstance(self.conditions, Design)  # which makes them in the worker
        given = {name: self.conditions[name].hooks for name in self.names}
        return {name: own() if callable(own) else own for name, own in given.items()}


def _of(condition: Condition, made: Given) -> dict[str, Any]:
    labels = describe(condition.labels, "the labels")
    found = {"hooks": describe_hooks(made), "control": condition.control, "labels": labels}
    return found if condition.prompt is None else {**found, "prompt": condition.prompt}


def _pairs(hooks: Given) -> Given:
    """Write hooks as pairs; those that have names of one's own keep them."""
    named = isinstance(hooks, Mapping)
    return {name: to_config(own) for name, own in hooks.items()} if named else to_config(hooks)  # type: ignore[union-attr]


def in_jobs(names: Sequence[str], batch: int) -> list[tuple[str, ...]]:
    """Divide the conditions of a case among jobs, each with the untouched one in its batch.

    >>> in_jobs("abcde", batch=3)
    [('a', 'b'), ('c', 'd'), ('e',)]

    With a batch of one, a job has as many as usual, and each is a run of its own. Raises ValueError for less than one.
    """
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch is the largest number of images in one run, 1 or more, not {batch!r}")
    each = (BATCH if batch == 1 else batch) - 1
    return [tuple(names[k : k + each]) for k in range(0, max(len(names), 1), each)]
