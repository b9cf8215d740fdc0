"""`forest`: the means of an experiment's conditions with their intervals."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from sdprobe.experiments.condition import UNTOUCHED
from sdprobe.experiments.summary import Line, Summary

OWN, CONTROL, PLAIN = "#35608d", "0.55", "black"


def forest(summary: Summary, title: str = "", reference: str = UNTOUCHED) -> Figure:
    """Plot a panel for each measure and a line for each condition: its mean and interval. Controls are grey squares.

    The dashed line is the mean of the condition that the others are compared with, the untouched one.
    """
    measures = list(dict.fromkeys(own.measure for own in summary.lines))
    conditions = list(dict.fromkeys(own.condition for own in summary.lines))
    wide = 0.075 * max(map(len, conditions)) + 0.4
    size = (wide + 2.2 * len(measures), 0.26 * len(conditions) + 0.9 + 0.3 * bool(title))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for ax, measure in zip(panels, measures, strict=True):
        for own in (own for own in summary.lines if own.measure == measure):
            _draw(ax, own, conditions.index(own.condition), reference)
        ax.set_xlabel(measure, fontsize=9)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        if all(0 <= own.mean.value <= 1 for own in summary.lines if own.measure == measure and own.mean.cases):
            ax.set_xlim(-0.04, 1.04)
    panels[0].set_yticks(range(len(conditions)), conditions, fontsize=8)
    panels[0].invert_yaxis()
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw(ax: Any, own: Line, at: int, reference: str) -> None:
    colour = CONTROL if own.control else PLAIN if own.condition == reference else OWN
    ax.plot([own.mean.low, own.mean.high], [at, at], color=colour, linewidth=2, solid_capstyle="butt")
    ax.plot(own.mean.value, at, "s" if own.control else "o", color=colour, markersize=5)
    if own.condition == reference:
        ax.axvline(own.mean.value, color="0.7", linewidth=0.8, linestyle="--", zorder=0)
