"""`beside_control`: matrices of effects as a figure: the effects, and beside them the controls, in the same colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sdprobe.core.module_names import short_name
from sdprobe.experiments.bootstrap import number
from sdprobe.experiments.effects import Effects
from sdprobe.plot import HEAT

WIDE, HIGH = 0.62, 0.36  # inches of a cell
LEAST = 1.5  # inches of all rows
LETTER = 0.075  # inches of a letter of a title
SIGNED = "RdBu_r"
MOST = 16  # up to this number of columns, the values are written into the matrix


def beside_control(
    panels: Sequence[tuple[str, Effects]], *, zero: float = 0.0, signed: bool = False, title: str = ""
) -> Figure:
    """Plot matrices of the same rows and columns side by side, with one scale of colours.

    Grey numbers are of cells whose interval includes ``zero``. ``=`` stands where nothing changed to the last bit.

    >>> from sdprobe.experiments.bootstrap import Estimate
    >>> cells = {("mid_block", "0–3"): Estimate(0.5, 0.2, 0.8, 12)}
    >>> effects = Effects(cells, "share of the way", ("module", "steps"))
    >>> figure = beside_control([("patched", effects), ("random vectors", effects)])
    >>> [ax.get_title() for ax in figure.axes[:2]], [text.get_text() for text in figure.axes[0].texts]
    (['patched', 'random vectors'], ['0.50', '0.20–0.80'])

    Args:
        panels: a title and effects for each.
        zero: the value of no effect.
        signed: whether effects go both ways from zero: the colours are then those of a scale with two ends. Else they
            are shares, from 0 to 1.
        title: of the figure.

    Raises ValueError for effects without a cell.
    """
    if not all(own.cells for _, own in panels):
        raise ValueError("there is nothing to plot: no case has a value, and the result's `failed` says why")
    first = panels[0][1]
    rows, columns = first.rows, first.columns
    names = row_names(rows)
    most = _largest([own for _, own in panels]) if signed else 1.0
    titles = [said.replace(": ", ":\n") for said, _ in panels]
    longest = max(len(line) for said in titles for line in said.splitlines())
    wide = len(panels) * max(WIDE * len(columns), LETTER * longest) + 0.075 * max(map(len, names)) + 1.3
    high = max(HIGH * len(rows), LEAST) + 1.0 + 0.3 * bool(title)
    figure = Figure(figsize=(wide, high), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    scale: dict[str, Any] = {"cmap": SIGNED, "vmin": -most, "vmax": most} if signed else {"cmap": HEAT, "vmin": 0}
    for ax, said, (_, effects) in zip(axes, titles, panels, strict=True):
        image = ax.imshow(effects.values, aspect="auto", **{"vmax": 1.0, **scale})
        if len(columns) <= MOST:
            _write(ax, effects, rows, columns, zero, most if signed else 0.0)
        ax.set_title(said, fontsize=9)
        ax.set_xticks(range(len(columns)), columns, fontsize=8)
        ax.set_yticks(range(len(rows)), names, fontsize=8)
        ax.set_xlabel(effects.axes[1], fontsize=8)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01, extend="neither" if signed else "both")
    bar.set_label(first.about, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def row_names(names: Sequence[str]) -> list[str]:
    """Return short names of modules, as long as it takes to tell each from the others; other words stay.

    >>> row_names(["up_blocks.2", "up_blocks.2.attentions.0.transformer_blocks.0.attn2 head 1"])
    ['up 2', 'up 2.0 head 1']
    >>> row_names(["up_blocks.2.attentions.1", "up_blocks.2.resnets.1", "all sites"])
    ['up_blocks.2.attentions.1', 'up_blocks.2.resnets.1', 'all sites']
    """
    modules = list(dict.fromkeys(_module_of(name) for name in names))
    short = {name: name for name in modules}
    for most in (4, 3, 2):
        made = [short_name(name, most) for name in modules]
        short |= {name: own for name, own in zip(modules, made, strict=True) if made.count(own) == 1}
    return [short[_module_of(name)] + name.removeprefix(_module_of(name)) for name in names]


def _module_of(name: str) -> str:
    """Return the module that a name begins with, or the whole name if it is none."""
    first = name.split(" ")[0]
    return first if "." in first or "_" in first else name


def _write(ax: Any, effects: Effects, rows: Sequence[str], columns: Sequence[str], zero: float, most: float) -> None:
    for cell, own in effects.cells.items():
        x, y = columns.index(cell[1]), rows.index(cell[0])
        dark = abs(own.value) > 0.6 * most if most else own.value <= 0.6
        style: dict[str, Any] = {"color": "white" if dark else "black", "ha": "center", "va": "center"}
        style["alpha"] = 1.0 if own.excludes(zero) else 0.5
        if effects.did_nothing(cell):
            ax.text(x, y, "=", fontsize=8, **style)
            continue
        ax.text(x, y - 0.16, number(own.value), fontsize=8, **style)
        if own.cases:
            between = " to " if own.low < 0 else "–"
            ax.text(x, y + 0.26, f"{number(own.low)}{between}{number(own.high)}", fontsize=5.5, **style)


def _largest(several: Sequence[Effects]) -> float:
    values = np.abs(np.concatenate([own.values.ravel() for own in several]))
    found = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    return found or 1.0
