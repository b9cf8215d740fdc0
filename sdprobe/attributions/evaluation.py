"""`Evaluation`: how well the maps of each method fit, in one table, beside controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from sdprobe.attributions.cost_of_method import Cost
from sdprobe.attributions.map_scores import THRESHOLDS
from sdprobe.attributions.target import Target
from sdprobe.core.data_frame import data_frame
from sdprobe.experiments.bootstrap import Estimate, mean_with_interval
from sdprobe.experiments.curve_result import CurveResult
from sdprobe.experiments.result import Result
from sdprobe.experiments.result_figure import forest
from sdprobe.experiments.summary import Line, Summary
from sdprobe.plot.table import as_html, as_text

MEASURES = ("IoU", "average precision", "pointing", "deletion")
PER_CASE = Float[np.ndarray, " cases"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of methods of attribution; prints as a table.

    A case counts as a whole, with the mean over its targets, as things in one picture are not independent. Intervals
    are of 95 %, by bootstrap over the cases that were tested; differences to the plain mean are of pairs.

    ========================  ==========================================================================================
    measure                   what it is
    ========================  ==========================================================================================
    ``"IoU"``                 intersection over union at the one threshold that was best on the cases for choosing
    ``"average precision"``   the area under precision and recall over all thresholds
    ``"pointing"``            how often the maximum is inside (Zhang et al. 2016)
    ``"deletion"``            mean change of the thing, 0 to 255, where the phrase is hidden at 10, 20 and 40 % of the
                              places, those of the map first: the height of the curve; more is better
    ========================  ==========================================================================================

    Attributes:
        result: the table of scores, a row for each case, method and score, as `sdprobe.experiments.Result`.
        names: the names of the methods, the plain mean first, controls last.
        controls: the names of the controls.
        targets: the words, each with its region.
        chosen_on: the number of cases, the first, on which thresholds were chosen.
        curves: the deletion curves; None if none were made.
        costs: the cost of each method (`Cost`); empty if it was not measured.
        refused: methods that this model or these cases do not allow, with the reason.
    """

    result: Result
    names: tuple[str, ...]
    controls: tuple[str, ...]
    targets: tuple[Target, ...]
    chosen_on: int
    curves: CurveResult | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold of each method, from 0 to 1: the best mean IoU on the cases for choosing.

        It is NaN, and so is its IoU, of a method that has no map of a thing that these cases show.
        """
        return {name: math.nan if (best := self._best(name)) is None else THRESHOLDS[best] for name in self.names}

    @property
    def objects(self) -> int:
        """How many things the methods were tested on: those that the pictures of the tested cases show."""
        return sum(int(np.isfinite(own[self.chosen_on :]).sum()) for own in self._scores(self.names[0], "points"))

    def __getitem__(self, asked: tuple[str, str]) -> Line:
        """Return the score of a method: its mean, and the difference to the plain mean, with intervals.

        Args:
            asked: the name of the method, and one of ``"IoU"``, ``"average precision"``, ``"pointing"``,
                ``"deletion"``.

        Raises KeyError, with the choices, for anything else.
        """
        return self.summary[asked]

    @cached_property
    def summary(self) -> Summary:
        """All scores; the plain mean stands where an experiment has its untouched condition."""
        lines = []
        for measure in MEASURES[:3]:
            plain = self._per_case(self.names[0], measure)
            for name in self.names:
                own, hits = self._per_case(name, measure), measure == MEASURES[2]
                mean = mean_with_interval(own, bounded=hits)
                if hits:  # of answers of yes and no, where no miss may be one that was not met
                    mean = mean._replace(low=max(mean.low, 0.0), high=min(mean.high, 1.0))
                lines.append(self._line(name, measure, mean, mean_with_interval(own - plain, bounded=hits)))
        if self.curves is not None:
            for name, area in self.curves.areas("change").items():
                lines.append(self._line(name, MEASURES[3], area.height, area.difference))
        return Summary(tuple(lines))

    def ranked(self, measure: str = "IoU") -> list[str]:
        """Return the names of the methods, the best by a measure first."""
        there = {own.condition for own in self.summary.lines if own.measure == measure}
        means = {name: self[name, measure].mean.value for name in there}
        return sorted(means, key=lambda name: -math.inf if math.isnan(means[name]) else means[name], reverse=True)

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each method. Raises ImportError if pandas is not installed."""
        rows: list[dict[str, Any]] = []
        for name in self.names:
            row: dict[str, Any] = {"method": name, "control": name in self.controls}
            for own in (own for own in self.summary.lines if own.condition == name):
                row |= {own.measure: own.mean.value, f"{own.measure} low": own.mean.low}
                row |= {f"{own.measure} high": own.mean.high, f"{own.measure} difference": own.difference.value}
                row |= {f"{own.measure} difference low": own.difference.low}
                row |= {f"{own.measure} difference high": own.difference.high}
            cost = self.costs.get(name)
            row |= {"threshold": self.thresholds[name], "time": cost and cost.time, "memory": cost and cost.memory}
            rows.append(row)
        return data_frame({name: [row.get(name) for row in rows] for name in rows[0]})

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in self._table())
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in lines)

    def plot(self) -> Figure:
        """Plot a panel for each measure: the mean of each method with its interval; controls in grey.

        The dashed line is that of the plain mean.
        """
        return forest(self.summary, f"{self.objects} things in {self._tested} pictures", self.names[0])

    @property
    def _tested(self) -> int:
        return len(self.result.cases) - self.chosen_on

    def _line(self, name: str, measure: str, mean: Estimate, difference: Estimate) -> Line:
        if measure == MEASURES[3] and self.curves is not None:
            failed = {row["case"] for row in self.curves.failed if row.get("order") == name}
        else:
            failed = {row["case"] for row in self._failed(name) if row["case"] >= self.chosen_on}
        return Line(name, measure, mean, difference, name in self.controls, len(failed), 0)

    def _failed(self, name: str) -> list[Mapping[str, Any]]:
        """The rows of a method's maps that have an error instead of a value."""
        return [row for row in self.result.failed if f"{row['measure']}.".startswith(self._measure(name))]

    def _measure(self, name: str) -> str:
        return f"map {self.names.index(name)}."

    def _best(self, name: str) -> int | None:
        """The number of the best threshold on the cases for choosing; None where these have no scores."""
        each = np.array([self._scores(name, f"iou {k}") for k in range(len(THRESHOLDS))])[..., : self.chosen_on]
        return int(np.argmax(np.nanmean(each, (1, 2)))) if np.isfinite(each).any() else None

    def _per_case(self, name: str, measure: str) -> PER_CASE:
        """The score of each tested case: the mean over its targets; NaN where there is none."""
        best = self._best(name) if measure == "IoU" else None
        if measure == "IoU" and best is None:
            return np.full(self._tested, np.nan)
        wanted = {"IoU": f"iou {best}", "average precision": "precision", "pointing": "points"}[measure]
        several = np.array([own[self.chosen_on :] for own in self._scores(name, wanted)])
        there = np.isfinite(several)
        total = np.where(there, several, 0).sum(0)
        mean: PER_CASE = np.divide(total, there.sum(0), out=np.full(len(total), np.nan), where=there.any(0))
        return mean

    def _scores(self, name: str, score: str) -> list[PER_CASE]:
        """A score of each case, for each target that some picture shows; NaN where there is none."""
        found = []
        for number in self._shown:
            values = self._by_measure.get(f"{self._measure(name)}{number} {score}", {})
            own = np.full(len(self.result.cases), np.nan)
            own[[*values]] = [*values.values()]
            found.append(own)
        return found

    @cached_property
    def _shown(self) -> list[int]:
        """The numbers of the targets that some picture shows. Raises ValueError if there is none."""
        found = [
            number
            for number in range(len(self.targets))
            if any(f"{self._measure(name)}{number} points" in self._by_measure for name in self.names)
        ]
        if not found:
            why = f" ({self.result.failed[0]['error']})" if self.result.failed else ""
            words = ", ".join(own.word for own in self.targets)
            raise ValueError(f"no map was held against what the words of {words} name: no picture shows it{why}")
        return found

    @cached_property
    def _by_measure(self) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for row in self.result.rows:
            if row["value"] is not None:
                found.setdefault(row["measure"], {})[row["case"]] = row["value"]
        return found

    def _table(self) -> list[list[str]]:
        measures = list(dict.fromkeys(own.measure for own in self.summary.lines))
        head = ["method", measures[0], "difference to mean", *measures[1:]]
        head += ["time ×", "memory MB"] * bool(self.costs)
        return [head, *([*self._cells(name, measures)] for name in self.names)]

    def _cells(self, name: str, measures: Sequence[str]) -> list[str]:
        first = self[name, measures[0]]
        cells = [f"{name} (control)" if name in self.controls else name, str(first.mean)]
        cells.append("" if name == self.names[0] else str(first.difference))
        cells += [str(self[name, measure].mean) for measure in measures[1:]]
        if self.costs:
            cost = self.costs[name]
            cells += [f"{cost.time:.2f}", f"{cost.memory / 1e6:.1f}"]
        return cells

    def __repr__(self) -> str:
        lines = as_text(self._table())
        for name in self.names:
            if rows := self._failed(name):
                cases = len({row["case"] for row in rows})
                lines.append(f"{name} failed in {cases} of {len(self.result.cases)} cases: {rows[0]['error']}")
        lines += [f"{name} cannot: {why}" for name, why in self.refused.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return as_html(self._table(), f"{self.objects} things in {self._tested} pictures")
