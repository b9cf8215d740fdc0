"""`EffectMatrix`: the result of a sweep over places and steps: how far each takes a picture to another prompt's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from matplotlib.figure import Figure

from sdprobe.core.data_frame import data_frame
from sdprobe.experiments.bootstrap import Estimate, mean_with_interval
from sdprobe.experiments.effects import Cell, Effects
from sdprobe.experiments.effects_figure import beside_control
from sdprobe.experiments.result import Result

WHOLE = "all of b"
Kind = TypeVar("Kind", bound="EffectMatrix")


@dataclass(frozen=True)
class EffectMatrix(Result):
    """The table of a sweep from a prompt a to a prompt b, and the matrix of its effects.

    The effect is a share of the way from a to b by a measure m: of each case
    (m(under the condition) - m(a)) / (m(b) - m(a)). It is 0 for the untouched condition and 1 where the picture is as
    b's. A case with m(a) = m(b) has no effect and is left out; where they are nearly the same, the share of one case
    can be very large, so choose a measure by which a and b differ. Intervals are over the cases, which are pairs.

    Attributes (and those of `Result`):
        measure: the measure of the matrix where none is asked for; empty for the first.
    """

    measure: str = ""
    axes: ClassVar[tuple[str, str]] = ("module", "steps")
    whole: ClassVar[str | None] = WHOLE
    controlled_by: ClassVar[str] = "random vectors of equal norm"

    def effect(self, measure: str | None = None) -> Effects:
        """Return the effects. Raises ValueError for a measure that there is not."""
        return self._effects(self._asked(measure), control=False)

    def control(self, measure: str | None = None) -> Effects:
        """Return the effects of the controls, of the same places. Raises ValueError as `effect`."""
        return self._effects(self._asked(measure), control=True)

    def effects_to_pandas(self, measure: str | None = None) -> Any:
        """Return the effects and those of the controls, which have True in the column ``"control"``, as a data frame.

        Raises ImportError if pandas is not installed, and ValueError as `effect`.
        """
        own, control = self.effect(measure).to_pandas(), self.control(measure).to_pandas()
        columns = {name: [*own[name], *control[name]] for name in own}
        return data_frame(columns | {"control": [False] * len(own) + [True] * len(control)})

    def plot(self, measure: str | None = None) -> Figure:
        """Plot the effects with their intervals, and beside them the controls, in the same colours.

        Grey numbers are of cells whose interval includes 0. Raises ValueError as `effect`.

        Source: Basu et al. 2024, "On Mechanistic Knowledge Localization in Text-to-Image Generative Models", section 4.
        """
        own, control = self.effect(measure), self.control(measure)
        panels = [(self._asked(measure), own), (f"control: {self.controlled_by}", control)]
        return beside_control(panels, signed=self.whole is None, title=self.about)

    def _asked(self, measure: str | None) -> str:
        asked = self.measure if measure is None else measure
        if asked and asked not in self.measures:
            raise ValueError(f"there is no measure {asked!r}; the measures: {', '.join(self.measures)}")
        return asked or self.measures[0]

    def _effects(self, measure: str, control: bool) -> Effects:
        rows = [row for row in self.rows if row["measure"] == measure]
        whole = {row["case"]: _way(row) for row in rows if row["condition"] == self.whole}
        of_cell: dict[Cell, list[Mapping[str, Any]]] = {}
        for row in rows:
            if bool(row["control"]) == control and all(name in row for name in self.axes):
                of_cell.setdefault((str(row[self.axes[0]]), str(row[self.axes[1]])), []).append(row)
        bounded = all(isinstance(row["value"], bool) for row in rows if row["value"] is not None)
        cells = {
            cell: self._estimate(np.array([*self._of_cases(own, whole)], dtype=float), bounded)
            for cell, own in of_cell.items()
        }
        unchanged = {cell: sum(bool(row.get("unchanged")) for row in own) for cell, own in of_cell.items()}
        about = f"difference to untouched, {measure}" if self.whole is None else f"share of the way, {measure}"
        tried = {cell: sum("unchanged" in row for row in own) for cell, own in of_cell.items()}
        return Effects(cells, about, self.axes, unchanged, tried)

    def _of_cases(self, rows: list[Mapping[str, Any]], whole: Mapping[int, float]) -> Iterator[float]:
        for row in rows:
            if self.whole is None:
                yield _way(row)
            else:
                full = whole.get(row["case"], np.nan)
                yield _way(row) / full if full else np.nan

    def _estimate(self, values: np.ndarray, bounded: bool) -> Estimate:
        found = mean_with_interval(values, bounded)
        # Of answers of yes and no, a share of the way is 0 or 1 in each case.
        if bounded and self.whole is not None:
            found = found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))
        return found


def as_matrix(result: Result, kind: type[Kind], measure: str | None, about: str) -> Kind:
    """Return the result of a sweep with the measure of its matrix and its title.

    Raises ValueError for a measure that there is not.
    """
    assert isinstance(result, kind)  # the design says so
    if measure is not None and measure not in result.measures:
        raise ValueError(f"there is no measure {measure!r}; the measures: {', '.join(result.measures)}")
    return replace(result, about=about, measure=measure or "")


def _way(row: Mapping[str, Any]) -> float:
    """Return how far a row is from the untouched condition of the same batch."""
    ends = row.get("value"), row.get("untouched")
    return float("nan") if None in ends else float(ends[0]) - float(ends[1])  # type: ignore[arg-type]
