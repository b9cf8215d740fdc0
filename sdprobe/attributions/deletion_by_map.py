"""`DeletionByMap`: hide what a word stands for in the order of each method's map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from sdprobe.attributions.joined_hooks import joined_hooks
from sdprobe.attributions.target import Target
from sdprobe.core.attribution import Attribution
from sdprobe.core.given_hooks import Given
from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import Condition, Design, NotInThisCase
from sdprobe.experiments.curve_result import CurveResult
from sdprobe.plot.heatmap import HeatMap
from sdprobe.transform.attention_edits.hide_tokens import HideTokens

SHARES = (0.1, 0.2, 0.4)


@dataclass(frozen=True)
class DeletionByMap(Design):
    """The conditions of a deletion curve for each method: its order is that of the method's own map.

    Args:
        methods: the methods by name, the one that others are compared with first.
        controls: the names of those that know nothing of the word.
        target: the word whose map is made, and the phrase that is hidden.
        shares: of the places, at which the phrase is hidden.
    """

    methods: Mapping[str, Attribution]
    controls: tuple[str, ...]
    target: Target
    shares: tuple[float, ...] = SHARES

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return a condition for each method and share. Raises NotInThisCase for a case without the target."""
        if not self.target.fits(case):
            raise NotInThisCase(f"the case {case.prompt!r} has no words for {self.target.word!r}")
        hooks = joined_hooks(self.methods.values(), [case.fill(self.target.word)])
        run = partial(runner.once, "with the hooks of all methods", lambda: runner.run(hooks))
        word, phrase = (case.fill(said) for said in (self.target.word, self.target.phrase or self.target.word))
        found = {}
        for name, method in self.methods.items():
            heat = partial(runner.once, f"the map of {name}", partial(_map_of, method, run, word))
            for share in self.shares:
                hiding = partial(_hidden, phrase, heat, share)
                found[f"{name}, {share:g}"] = Condition(hiding, name in self.controls, {"order": name, "share": share})
        return found

    def result(self) -> type[CurveResult]:
        """Return the class of the result."""
        return CurveResult


def _map_of(method: Attribution, run: Callable[[], Run], word: str) -> HeatMap:
    return method.heat_map(run(), word)


def _hidden(phrase: str, heat: Callable[[], HeatMap], share: float) -> Given:
    return [HideTokens(phrase, order=heat().values, share=share)]
