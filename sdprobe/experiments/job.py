"""`Job`: some conditions of one case, as a plain description that can be sent to another process and has a hash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sdprobe.core.given_hooks import Given
from sdprobe.core.hook_configuration import to_config
from sdprobe.core.provenance import versions
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import SampleSettings
from sdprobe.experiments.condition import Condition, Design
from sdprobe.experiments.description import describe, describe_file, describe_hooks, fingerprint
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
        known: what was described before, for jobs of one experiment to share: to write a hook takes long.
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
    known: dict[tuple[str, int], tuple[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Everything that its results depend on, as JSON holds it: also the version of sdprobe.

        Raises ValueError for a hook that cannot be written as a name and a configuration, and TypeError for a measure
        of which nothing lasting can be said.
        """
        own = self.conditions
        if isinstance(own, Design):
            said = self._once("design", own, lambda: describe(own, "the design"))
        else:
            said = {name: self._of(own[name]) for name in self.names}
        case = describe(self.case, "the case")
        if isinstance(image := self.case.image, str) or hasattr(image, "__fspath__"):
            case["fields"]["image"] = describe_file(Path(image))  # another picture may be under that name one day
        return {
            "schema": SCHEMA,
            "sdprobe": versions()["sdprobe"],
            "model": self.model,
            "case": case,
            "conditions": said,
            "names": list(self.names),
            "measures": self._once("measures", self.measures, lambda: describe(self.measures, "measures")),
            "hooks": self._once("hooks", self.hooks, lambda: describe_hooks(self.hooks)),
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
            own = {name: replace(own[name], hooks=self._pairs(self._made(own[name]))) for name in self.names}
        made = replace(self, conditions=own, hooks=self._pairs(self.hooks), known={})
        # Another process may know a function by another name, and need not compute what is known.
        vars(made).update({name: vars(self)[name] for name in ("description", "id") if name in vars(self)})
        return made

    def _of(self, condition: Condition) -> dict[str, Any]:
        given, labels = self._made(condition), describe(condition.labels, "the labels")
        hooks = self._once("hooks", given, lambda: describe_hooks(given))
        return {"hooks": hooks, "control": condition.control, "labels": labels}

    def _made(self, condition: Condition) -> Given:
        own = condition.hooks
        made: Given = self._once("made", own, own) if callable(own) else own
        return made

    def _pairs(self, hooks: Given) -> Given:
        """Write hooks as pairs; those that have names of one's own keep them."""

        def pairs() -> Any:
            return (
                {name: to_config(own) for name, own in hooks.items()}
                if isinstance(hooks, Mapping)
                else to_config(hooks)
            )

        written: Given = self._once("pairs", hooks, pairs)
        return written

    def _once(self, what: str, of: Any, make: Callable[[], Any]) -> Any:
        """Return what a function makes of an object, or made of it for another job."""
        key = what, id(of)
        if key not in self.known:
            self.known[key] = of, make()  # the object is held, so that no other can have its id
        return self.known[key][1]


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
