"""The figure of a comparison: pictures and their difference, distances over the steps, and attention by site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from PIL.Image import Image

from sdprobe.core.module_names import short_name
from sdprobe.plot import HEAT
from sdprobe.runs.comparison.distances import Distance
from sdprobe.runs.comparison.parting import Parting

WIDTH = 7.5  # inches
LINES = {
    "latents": ("$x_t$", "-", "o", 0.0),
    "noise_pred": ("guided noise", "--", "s", 0.45),
    "denoised": ("predicted $x_0$", ":", "^", 0.8),
}
"""Label, line, marker and shade, so that each can be told from the others without its colour."""
TICKS = 24  # of names; more do not fit beside a matrix


def draw_comparison(
    pictures: tuple[Image | None, Image | None],
    difference: Float[np.ndarray, "h w"] | None,
    values: Sequence[Distance],
    parting: Parting,
    sites: Sequence[str],
) -> Figure:
    """Return the figure of one image.

    Args:
        pictures: of a and b.
        difference: of the pictures, in [0, 1]; None where there is none.
        values: the distances of the image.
        parting: where the image parts.
        sites: the sites, in the order in which the denoiser passes them.
    """
    curves = [own for own in values if own.quantity.removesuffix(" (statistics)") in LINES]
    inner = [own for own in values if own.quantity == "attention"]
    inner = inner or [own for own in values if own.quantity == "activation" and own.step is not None]
    matrices = _matrices(inner, sites)
    names = list(dict.fromkeys(name for _, _, _, own in matrices for name in own))
    heights = [2.5, *[2.4] * bool(curves), *[max(1.6, 0.17 * min(len(names), TICKS) + 1.0)] * bool(matrices)]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    rows = iter(figure.add_gridspec(len(heights), 1, height_ratios=heights))
    _draw_pictures(figure, next(rows), pictures, difference)
    if curves:
        _draw_curves(figure, next(rows), curves, parting)
    if matrices:
        _draw_matrices(figure, next(rows), matrices, names, inner[0].quantity)
    return figure


def _draw_pictures(figure: Figure, cell: Any, pictures: Sequence[Image | None], difference: Any) -> None:
    grid = GridSpecFromSubplotSpec(1, 3, cell)
    for i, (picture, name) in enumerate(zip(pictures, "ab", strict=True)):
        ax = figure.add_subplot(grid[i])
        ax.set(xticks=[], yticks=[], title=name)
        ax.spines[:].set(color="0.85", linewidth=0.5)
        if picture is None:
            ax.text(0.5, 0.5, "no picture", ha="center", va="center", transform=ax.transAxes)
        else:
            ax.imshow(picture)
    ax = figure.add_subplot(grid[2])
    ax.set(xticks=[], yticks=[], title="difference")
    ax.spines[:].set(color="0.85", linewidth=0.5)
    if difference is None:
        ax.text(0.5, 0.5, "not subtracted", ha="center", va="center", transform=ax.transAxes)
        return
    most = float(difference.max())
    drawn = ax.imshow(difference, cmap=HEAT, vmin=0, vmax=most or 1.0)
    if most:
        figure.colorbar(drawn, ax=ax, fraction=0.046, label="mean of |a - b|")
    else:
        ax.set_title("difference: none")


def _draw_curves(figure: Figure, cell: Any, values: Sequence[Distance], parting: Parting) -> None:
    """Draw distance and cosine over the steps. Near 0 the scale is linear, so that equal values are on it too."""
    grid = GridSpecFromSubplotSpec(1, 2, cell)
    left: Any
    right: Any
    left, right = (figure.add_subplot(grid[i]) for i in range(2))
    limit = max(own.limit for own in values)
    for name, (label, style, marker, shade) in LINES.items():
        own = [value for value in values if value.quantity.removesuffix(" (statistics)") == name]
        steps = [value.step or 0 for value in own]
        look = {
            "linestyle": style,
            "marker": marker,
            "markersize": 3.5,
            "color": matplotlib.colormaps["viridis"](shade),
        }
        if own:
            least = " (at least)" if any(value.quantity != name for value in own) else ""
            left.plot(steps, [value.distance for value in own], label=label + least, **look)
            right.plot(steps, [value.cosine for value in own], **look)
    finite = [own.distance for own in values if np.isfinite(own.distance)]
    left.set_yscale("symlog", linthresh=limit)
    left.set_ylim(-0.15 * limit, max([3 * limit, *(2 * own for own in finite)]))
    left.axhspan(-limit, limit, color="0.9", linewidth=0)
    left.text(0.01, 0.93 * limit, "rounding", transform=left.get_yaxis_transform(), va="top", fontsize=8)
    left.set(xlabel="step", ylabel="distance")
    lowest = min([0.999, *(own.cosine for own in values if np.isfinite(own.cosine))])
    right.set(xlabel="step", ylabel="cosine of a and b", ylim=(lowest - 0.05 * (1 - lowest), 1 + 0.05 * (1 - lowest)))
    right.ticklabel_format(axis="y", useOffset=False)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if parting.outcome == "parted" and parting.at is not None and parting.at.step is not None:
            ax.axvline(parting.at.step, color="0.3", linewidth=0.8, linestyle=(0, (1, 2)))
    left.legend(frameon=False, fontsize=8)


Matrix = tuple[str, list[str], Any, list[str]]


def _matrices(values: Sequence[Distance], sites: Sequence[str]) -> list[Matrix]:
    """Return the label of the columns, their names, the numbers and the names of the rows: by step, and by word."""
    place = {name: i for i, name in enumerate(sites)}
    names = sorted(dict.fromkeys(own.site for own in values), key=lambda name: place.get(name, len(place)))
    whole = [own for own in values if own.step is not None and not own.word]
    by_step = whole or [own for own in values if own.step is not None]
    found: list[Matrix] = []
    for label, own, column in (
        ("step", by_step, lambda value: value.step),
        ("word", [value for value in values if value.word], lambda value: value.word),
    ):
        if own:
            columns, numbers = _mean_by(own, names, column)
            found.append((label, columns, numbers, names))
    return found


def _mean_by(
    values: Sequence[Distance], names: Sequence[str], column: Callable[[Distance], Any]
) -> tuple[list[str], Float[np.ndarray, "sites columns"]]:
    columns = list(dict.fromkeys(map(column, values)))
    if all(isinstance(own, int) for own in columns):
        columns.sort()
    total, count = np.zeros((len(names), len(columns))), np.zeros((len(names), len(columns)))
    for own in values:
        at = names.index(own.site), columns.index(column(own))
        total[at] += own.distance
        count[at] += 1
    with np.errstate(invalid="ignore"):  # what was not recorded is left empty
        return [str(own) for own in columns], total / count


def _draw_matrices(figure: Figure, cell: Any, matrices: Sequence[Matrix], names: Sequence[str], quantity: str) -> None:
    wide = [max(4, len(columns)) if label == "word" else max(8, len(columns)) for label, columns, _, _ in matrices]
    grid = GridSpecFromSubplotSpec(1, len(matrices), cell, width_ratios=wide)
    finite = [numbers[np.isfinite(numbers)] for _, _, numbers, _ in matrices]
    most = max((float(own.max()) for own in finite if own.size), default=0.0)
    short, axes = short_names(names), []
    for i, (label, columns, numbers, _) in enumerate(matrices):
        ax = figure.add_subplot(grid[i])
        drawn = ax.imshow(numbers, cmap=HEAT, vmin=0, vmax=most or 1.0, aspect="auto", interpolation="nearest")
        ax.set_facecolor("0.8")  # of what was not recorded
        each = max(1, -(-len(columns) // (12 if label == "step" else TICKS)))
        ax.set_xticks(range(0, len(columns), each), columns[::each], fontsize=8)
        if label == "word":
            ax.tick_params("x", rotation=60)
        ax.set_xlabel("step" if label == "step" else "word, mean over the steps" if len(matrices) > 1 else "word")
        each = max(1, -(-len(names) // TICKS))
        ax.set_yticks(range(0, len(names), each), short[::each] if i == 0 else [], fontsize=8)
        axes.append(ax)
    axes[0].set_ylabel("site" if quantity == "attention" else "module")
    figure.colorbar(drawn, ax=axes, label=f"distance of the {quantity}", fraction=0.05, pad=0.02)


def short_names(names: Sequence[str]) -> list[str]:
    """Return names of modules by their part and numbers, if those are not the same for two of them.

    >>> short_names(["up_blocks.1.attentions.0.transformer_blocks.0.attn2", "mid_block.attentions.0.norm"])
    ['up 1.0', 'mid 0']
    """
    for most in (2, 9):
        found = [short_name(name, most) for name in names]
        if len(set(found)) == len(found):
            return found
    return list(names)
