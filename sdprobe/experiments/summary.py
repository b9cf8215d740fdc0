"""`Summary`: for each condition and measure, the mean over cases and the difference to the untouched condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdprobe.core.data_frame import data_frame
from sdprobe.experiments.bootstrap import Estimate, mean_with_interval
from sdprobe.experiments.condition import UNTOUCHED
from sdprobe.plot.table import as_html, as_text


@dataclass(frozen=True)
class Line:
    """One condition and one measure.

    Attributes:
        mean: the mean over the cases that have a value, with its interval of 95 %.
        difference: the mean difference to the untouched condition over the cases that have both values, with its
            interval; cases are drawn as pairs.
        control: whether the condition is a control.
        failed: how many cases have no value because something raised an error.
        unchanged: in how many cases the final latents are those of the untouched condition, to the last bit: there
            the condition did nothing.
    """

    condition: str
    measure: str
    mean: Estimate
    difference: Estimate
    control: bool
    failed: int
    unchanged: int


@dataclass(frozen=True)
class Summary:
    """The lines of a summary; prints as a table.

    >>> rows = [
    ...     {"case": k, "condition": name, "control": False, "measure": "red", "value": value}
    ...     | {"untouched": True, "unchanged": not k}
    ...     for k in range(20)
    ...     for name, value in (("untouched", True), ("swapped", k % 4 == 0))
    ... ]
    >>> summary = summarize(rows)
    >>> summary["swapped", "red"].difference
    Estimate(value=-0.75, low=-0.9, high=-0.51..., cases=20)
    >>> summary
    condition  measure  mean [95 % interval]  difference to untouched  cases
    untouched  red      1.00 [0.83, 1.00]                              20
    swapped    red      0.25 [0.10, 0.48]     -0.75 [-0.90, -0.52]     20     changed nothing in 1 case
    """

    lines: tuple[Line, ...]

    def __getitem__(self, asked: tuple[str, str]) -> Line:
        """Return the line of a condition and a measure. Raises KeyError, with the choices, if there is none."""
        for own in self.lines:
            if (own.condition, own.measure) == asked:
                return own
        conditions, measures = ({getattr(own, name): None for own in self.lines} for name in ("condition", "measure"))
        raise KeyError(f"no line of {asked!r}; conditions: {', '.join(conditions)}; measures: {', '.join(measures)}")

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each line. Raises ImportError if pandas is not installed."""
        rows = [
            {"condition": own.condition, "measure": own.measure, "control": own.control}
            | {"mean": own.mean.value, "low": own.mean.low, "high": own.mean.high}
            | {f"difference{end}": value for end, value in zip(("", "_low", "_high"), own.difference, strict=False)}
            | {"cases": own.mean.cases, "failed": own.failed, "unchanged": own.unchanged}
            for own in self.lines
        ]
        return data_frame({name: [row[name] for row in rows] for name in rows[0]} if rows else {})

    def __repr__(self) -> str:
        return "\n".join(as_text(self._table()))

    def _repr_html_(self) -> str:
        return as_html(self._table(), "Means over cases, and differences to the untouched condition")

    def _table(self) -> list[list[str]]:
        head = ["condition", "measure", "mean [95 % interval]", "difference to untouched", "cases", ""]
        return [head, *([*self._cells(own), _note(own)] for own in self.lines)]

    def _cells(self, own: Line) -> list[str]:
        condition = f"{own.condition} (control)" if own.control and "control" not in own.condition else own.condition
        difference = "" if own.condition == UNTOUCHED else str(own.difference)
        return [condition, own.measure, str(own.mean), difference, str(own.mean.cases)]


def _note(own: Line) -> str:
    def counted(n: int) -> str:
        return f"{n} case{'s' * (n != 1)}"

    notes = [f"changed nothing in {counted(own.unchanged)}"] * bool(own.unchanged and own.condition != UNTOUCHED)
    if own.condition != UNTOUCHED and own.difference.cases != own.mean.cases:
        notes.append(f"the difference is of {counted(own.difference.cases)}")
    notes += [f"an error in {counted(own.failed)}"] * bool(own.failed)
    return ", ".join(notes)


def summarize(rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Summarize rows of the table, in the order in which conditions and measures come."""
    values: dict[tuple[str, str], dict[int, Any]] = {}
    for row in rows:
        values.setdefault((row["condition"], row["measure"]), {})[row["case"]] = row
    lines = []
    for (condition, measure), own in values.items():
        pairs = [(_number(row.get("value")), _number(row.get("untouched"))) for row in own.values()]
        ends = (row.get(end) for row in own.values() for end in ("value", "untouched"))
        known = [value for value in ends if value is not None]
        bounded = all(isinstance(value, bool) for value in known)
        with_, without = np.array(pairs, dtype=float).T
        lines.append(
            Line(
                condition,
                measure,
                _within(mean_with_interval(with_, bounded), 0.0 if bounded else -np.inf, 1.0 if bounded else np.inf),
                mean_with_interval(with_ - without, bounded),
                any(row["control"] for row in own.values()),
                sum("error" in row for row in own.values()),
                sum(bool(row.get("unchanged")) for row in own.values()),
            )
        )
    return Summary(tuple(lines))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _within(estimate: Estimate, least: float, most: float) -> Estimate:
    return estimate._replace(low=float(max(estimate.low, least)), high=float(min(estimate.high, most)))
