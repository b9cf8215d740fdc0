"""`Result`: the table of an experiment, one row for each case, condition and measure."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sdprobe.core.data_frame import data_frame
from sdprobe.experiments.case import Case
from sdprobe.experiments.condition import UNTOUCHED
from sdprobe.experiments.result_figure import forest
from sdprobe.experiments.summary import Summary, summarize
from sdprobe.files.atomic_file import write_atomically


@dataclass(frozen=True)
class Result:
    """The table of an experiment.

    Attributes:
        rows: a dictionary for each case, condition and measure: ``"case"`` (its number), ``"prompt"``, ``"seed"``,
            ``"condition"``, ``"control"``, the labels of the condition, ``"measure"``, ``"value"`` (a number, True,
            False, or None where there is none), ``"untouched"`` (the value of the untouched condition in the same
            batch), ``"unchanged"`` (whether the final latents are those of the untouched condition, to the last bit),
            and ``"error"`` where something failed.
        cases: the cases.
        about: what was asked for, in one line, for titles.
    """

    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    cases: Sequence[Case] = field(repr=False)
    about: str = ""

    def summary(self) -> Summary:
        """Return for each condition and measure the mean, the paired difference to the untouched one, and intervals."""
        return self._summary

    @cached_property
    def _summary(self) -> Summary:
        return summarize(self.rows)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the conditions."""
        return tuple(dict.fromkeys(row["condition"] for row in self.rows))

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures."""
        return tuple(dict.fromkeys(row["measure"] for row in self.rows))

    @property
    def failed(self) -> list[Mapping[str, Any]]:
        """The rows without a value because something raised an error, which is in ``"error"``."""
        return [row for row in self.rows if "error" in row]

    def values(self, condition: str, measure: str) -> list[Any]:
        """Return the value of each case, in their order; None where there is none.

        Raises KeyError for a condition or a measure that there is not.
        """
        self.summary()[condition, measure]
        asked = condition, measure
        found = {row["case"]: row["value"] for row in self.rows if (row["condition"], row["measure"]) == asked}
        return [found.get(k) for k in range(len(self.cases))]

    def to_pandas(self) -> Any:
        """Return the table as a data frame of pandas. Raises ImportError if pandas is not installed."""
        return data_frame({name: [row.get(name) for row in self.rows] for name in self._columns})

    def to_csv(self, path: str | Path) -> Path:
        """Write the table as a CSV file, whole or not at all; return the path."""
        with write_atomically(Path(path)) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self.rows)
        return Path(path)

    def to_json(self, path: str | Path) -> Path:
        """Write the table as a JSON file, a list of rows, whole or not at all; return the path.

        Numbers that are not finite, which JSON does not have, are written as texts, such as ``"inf"``.
        """
        with write_atomically(Path(path)) as beside:
            rows = [{name: _finite(value) for name, value in row.items()} for row in self.rows]
            written = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
            beside.write_text(written, encoding="utf-8")
        return Path(path)

    def plot(self) -> Figure:
        """Plot the mean of each condition with its interval, a panel for each measure; controls in grey."""
        return forest(self.summary(), self.about)

    @property
    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __repr__(self) -> str:
        about = f"{self.about}: " if self.about else ""
        others = len(self.conditions) - (UNTOUCHED in self.conditions)
        said = [f"{len(self.cases)} case{'s' * (len(self.cases) != 1)}"]
        said += [f"{others} condition{'s' * (others != 1)} and the untouched one"]
        said += [f"{len(self.failed)} rows without a value because of an error"] * bool(self.failed)
        return f"{type(self).__name__}({about}{', '.join(said)}; measures: {', '.join(self.measures)})"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
