"""`CurvePanel`: curves over the steps as coordinates, which the page draws as SVG, and as numbers in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 320, 200
RIGHT, TOP, BOTTOM = 10, 10, 34
DIGIT = 7  # the width of a character of a label


@dataclass(frozen=True)
class Curve:
    """One line. Its path has gaps where a value is not finite.

    Args:
        name: what it shows.
        path: for an SVG ``d``.
        dots: single points, which no line joins.
        values: one for each step.
    """

    name: str
    path: str
    dots: tuple[tuple[float, float], ...]
    values: tuple[float, ...]

    @property
    def said(self) -> str:
        """Its beginning, its end and its range in words."""
        finite = [value for value in self.values if math.isfinite(value)]
        if not finite:
            return f"{self.name}: no finite value"
        return (
            f"{self.name}: from {self.values[0]:.3g} to {self.values[-1]:.3g}, between {min(finite):.3g} and "
            f"{max(finite):.3g}"
        )


@dataclass(frozen=True)
class CurvePanel:
    """A diagram: curves, and where its ticks are, in the coordinates of an SVG of `WIDTH` by `HEIGHT`.

    Args:
        title: what is on the vertical axis.
        curves: the lines.
        x_ticks: place and label.
        y_ticks: place and label.
        left: where the horizontal axis begins, to the right of the labels.
        missing: why there is no curve, in words; empty if there is.
    """

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    left: float = 0
    missing: str = ""


def curve_panel(title: str, steps: Sequence[int], lines: Mapping[str, Sequence[float]], missing: str) -> CurvePanel:
    """Return a diagram of lines over the steps.

    >>> panel = curve_panel("loss", [0, 1, 2], {"loss": [3.0, float("nan"), 1.0]}, "nothing was recorded")
    >>> panel.curves[0].path, len(panel.curves[0].dots), panel.curves[0].said
    ('', 2, 'loss: from 3 to 1, between 1 and 3')
    >>> curve_panel("loss", [0], {"loss": [float("nan")]}, "nothing was recorded").missing
    'nothing was recorded'

    Args:
        title: what is on the vertical axis.
        steps: the numbers of the steps.
        lines: by name, a value for each step.
        missing: what to say where no value is finite.
    """
    finite = [value for values in lines.values() for value in values if math.isfinite(value)]
    if not finite:
        return CurvePanel(title, (), (), (), missing=missing)
    x_ticks = [tick for tick in MaxNLocator(5, integer=True).tick_values(min(steps), max(steps)) if _in(tick, steps)]
    y_ticks = [float(tick) for tick in MaxNLocator(4).tick_values(min(finite), max(finite))]
    low, high = min(*finite, *y_ticks), max(*finite, *y_ticks)
    labels = [f"{round(tick, 10):g}" for tick in y_ticks]
    left = DIGIT * max(map(len, labels)) + 12
    first, span = min(steps), max(max(steps) - min(steps), 1)

    def x(step: float) -> float:
        return round(left + (step - first) / span * (WIDTH - left - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / ((high - low) or 1.0) * (HEIGHT - TOP - BOTTOM), 1)

    curves = []
    for name, values in lines.items():
        parts = _unbroken([(x(s), y(v)) if math.isfinite(v) else None for s, v in zip(steps, values, strict=True)])
        path = "".join("M" + "L".join(f"{a},{b}" for a, b in part) for part in parts if len(part) > 1)
        curves.append(Curve(name, path, tuple(part[0] for part in parts if len(part) == 1), tuple(values)))
    return CurvePanel(
        title,
        tuple(curves),
        tuple((x(tick), f"{tick:g}") for tick in x_ticks),
        tuple((y(tick), label) for tick, label in zip(y_ticks, labels, strict=True)),
        left,
    )


def _in(tick: float, steps: Sequence[int]) -> bool:
    return min(steps) <= tick <= max(steps)


def _unbroken(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            parts.append([])
        else:
            parts[-1].append(point)
    return [part for part in parts if part]
