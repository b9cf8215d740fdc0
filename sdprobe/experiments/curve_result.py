"""`CurveResult`: the table of an experiment over orders and shares, as curves with areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

from sdprobe.experiments.bootstrap import Estimate, mean_with_interval
from sdprobe.experiments.condition import UNTOUCHED
from sdprobe.experiments.result import Result
from sdprobe.experiments.result_figure import OWN as COLOUR

DASHES: Sequence[Any] = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (2, 4)))
MARKS = ("s", "^", "D", "v")
GREYS = ("0.30", "0.45", "0.40", "0.55")


class Area(NamedTuple):
    """The mean height of a curve: the area under it, divided by the width of the shares.

    Attributes:
        height: the mean over cases, with its interval.
        difference: the mean difference to the map's own order, with its interval; cases are drawn as pairs.
    """

    height: Estimate
    difference: Estimate


class CurveResult(Result):
    """A result whose conditions are shares of places in several orders; of the orders the first is the map's own.

    The untouched condition is the share 0 of every order.

    >>> rows = [
    ...     {"case": k, "condition": f"{order}, 1", "control": order != "hot", "measure": "m", "value": k + high}
    ...     | {"order": order, "share": 1.0}
    ...     for k in range(3)
    ...     for order, high in (("hot", 4.0), ("cold", 2.0))
    ... ]
    >>> rows += [
    ...     {"case": k, "condition": "untouched", "control": False, "measure": "m", "value": 0.0} for k in range(3)
    ... ]
    >>> result = CurveResult(rows, [None] * 3)
    >>> [round(own.value, 1) for own in result.curve("hot", "m")[1]]
    [0.0, 5.0]
    >>> result.areas("m")["cold"].difference
    Estimate(value=-1.0, low=-1.0, high=-1.0, cases=3)
    """

    untouched_share: ClassVar[float] = 0.0
    axis: ClassVar[str] = "share of places that do not see the word"

    @property
    def orders(self) -> tuple[str, ...]:
        """The orders, the map's own first."""
        return tuple(dict.fromkeys(row["order"] for row in self.rows if "order" in row))

    def shares(self, order: str) -> tuple[float, ...]:
        """Return the shares of an order, with that of the untouched condition. Raises KeyError for no such order."""
        if order not in self.orders:
            raise KeyError(f"no order {order!r}; the orders: {', '.join(self.orders)}")
        return tuple(sorted({row["share"] for row in self.rows if row.get("order") == order} | {self.untouched_share}))

    def curve(self, order: str, measure: str) -> tuple[tuple[float, ...], list[Estimate]]:
        """Return the shares, and for each the mean over cases with its interval.

        Raises KeyError for an order or a measure that there is not.
        """
        summary = self.summary()
        names = self._conditions(order)
        return tuple(names), [summary[name, measure].mean for name in names.values()]

    def areas(self, measure: str) -> dict[str, Area]:
        """Return for each order the mean height of its curve, and the difference to that of the map's own order.

        The curve of a case is straight between shares. A case that lacks a value is left out of what needs it.
        """
        heights = {order: self._heights(order, measure) for order in self.orders}
        own = heights[self.orders[0]]
        return {
            order: Area(mean_with_interval(found), mean_with_interval(found - own)) for order, found in heights.items()
        }

    def plot(self) -> Figure:
        """Plot a panel for each measure, with the curve of each order and the band of its intervals; controls dashed.

        The heights are in the legend: see `areas`.
        """
        figure = Figure(figsize=(0.4 + 3.6 * len(self.measures), 4.2), layout="constrained")
        panels = figure.subplots(1, len(self.measures), squeeze=False)[0]
        for ax, measure in zip(panels, self.measures, strict=True):
            self._draw(ax, measure)
        if self.about:
            figure.suptitle(self.about, fontsize=10)
        return figure

    def _draw(self, ax: Any, measure: str) -> None:
        areas = self.areas(measure)
        for k, order in reversed([*enumerate(self.orders)]):  # the map's own on top
            shares, means = self.curve(order, measure)
            look = _look(k)
            low, high = ([getattr(own, end) for own in means] for end in ("low", "high"))
            ax.fill_between(shares, low, high, color=look["color"], alpha=0.22 if k == 0 else 0.13, linewidth=0)
            label = f"{order}{' (control)' * bool(k)}: {areas[order].height}"
            ax.plot(shares, [own.value for own in means], label=label, markersize=4, **look)
        ax.set_xlabel(self.axis, fontsize=9)
        ax.set_ylabel(measure, fontsize=9)
        ax.tick_params(labelsize=8)
        ax.set_xlim(-0.02, 1.02)
        ax.spines[["top", "right"]].set_visible(False)
        lines, labels = ax.get_legend_handles_labels()
        legend = ax.legend(
            lines[::-1],
            labels[::-1],
            title="order: mean height of the curve",
            fontsize=7,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            handlelength=3.5,
        )
        legend.get_title().set_fontsize(7)

    def _conditions(self, order: str) -> dict[float, str]:
        """Return the condition of each share of an order."""
        names = {row["share"]: row["condition"] for row in self.rows if row.get("order") == order}
        return {share: names.get(share, UNTOUCHED) for share in self.shares(order)}

    def _heights(self, order: str, measure: str) -> Float[np.ndarray, " cases"]:
        """Return the mean height of each case's curve; NaN where a value is missing."""
        names = self._conditions(order)
        values = np.array([_numbers(self.values(name, measure)) for name in names.values()])
        shares = np.array([*names])
        area: Float[np.ndarray, " cases"] = trapezoid(values, shares, axis=0) / np.ptp(shares)
        return area


def _look(k: int) -> Mapping[str, Any]:
    """Return how the curve of an order is drawn: the first in colour, the others in greys, dashes and marks."""
    if k == 0:
        return {"color": COLOUR, "linewidth": 2.2, "marker": "o", "linestyle": "-"}
    at = (k - 1) % len(DASHES)
    return {"color": GREYS[at], "linewidth": 1.4, "marker": MARKS[at], "linestyle": DASHES[at]}


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]
