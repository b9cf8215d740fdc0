"""Figures in matplotlib, in one style: labelled and suitable for colour-blind readers.

Every function returns its `Figure`, and shows nothing on screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Num
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

HEAT = "inferno"  # perceptually uniform: also readable in grey and by the colour-blind
INCH = 1.5


def colored(values: Num[np.ndarray, "h w"], cmap: str = HEAT) -> Image.Image:
    """Return values in [0, 1] as an image, with a colour map."""
    return Image.fromarray((matplotlib.colormaps[cmap](values)[..., :3] * 255).round().astype(np.uint8))


def heat_on(ax: Any, picture: Image.Image | None, values: Num[np.ndarray, "h w"]) -> None:
    """Draw values in [0, 1] over a greyscale version of an image."""
    ax.set_axis_off()
    if picture is None:
        ax.imshow(values, cmap=HEAT, vmin=0, vmax=1)
        return
    ax.imshow(laid_over(picture, values))


def laid_over(picture: Image.Image, values: Num[np.ndarray, "h w"]) -> Num[np.ndarray, "h w 3"]:
    """Return the colours, in [0, 1], of values in [0, 1] over a greyscale version of an image of their size."""
    grey = np.asarray(picture.convert("L"), dtype=float) / 255
    faded = 0.25 + 0.6 * grey
    heat = matplotlib.colormaps[HEAT](values)[..., :3]
    alpha = np.clip(values, 0, 1)[..., None] ** 0.7
    colours: NDArray[Any] = (1 - alpha) * faded[..., None] + alpha * heat
    return colours


def overlay(picture: Image.Image | None, values: Num[np.ndarray, "h w"], title: str, ax: Any = None) -> Figure:
    """Plot one heat map over its image, with a title."""
    figure = Figure(figsize=(2 * INCH, 2 * INCH + 0.3), layout="constrained") if ax is None else ax.figure
    ax = figure.subplots() if ax is None else ax
    heat_on(ax, picture, values)
    if title:
        ax.set_title(title, fontsize=10)
    return figure


Cell = Image.Image | NDArray[Any] | tuple[Image.Image | None, NDArray[Any]] | None


def sheet(
    cells: Sequence[Sequence[Cell]],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Plot a labelled grid of images, values in [0, 1], or (image, values) overlays; None leaves a cell empty.

    >>> import numpy as np
    >>> sheet([[np.eye(4), np.zeros((4, 4))]], rows=["one row"], columns=["left", "right"]).axes[1].get_title()
    'right'
    """
    n_rows, n_columns = len(cells), max(len(row) for row in cells)
    width, height = _size_of_cell(cells)
    size = (width * n_columns + (0.6 if rows else 0), height * n_rows + 0.25 * bool(columns) + 0.3 * bool(title))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for i, row in enumerate(cells):
        for j in range(n_columns):
            ax, cell = axes[i, j], row[j] if j < len(row) else None
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(visible=cell is not None, color="0.85", linewidth=0.5)  # shows the edges of white images
            if isinstance(cell, tuple):
                heat_on(ax, *cell)
                ax.set_axis_on()
            elif isinstance(cell, Image.Image):
                ax.imshow(cell)
            elif cell is not None:
                ax.imshow(cell, cmap=HEAT, vmin=0, vmax=1)
            if i == 0 and j < len(columns):
                ax.set_title(columns[j], fontsize=9)
            if j == 0 and i < len(rows):
                ax.set_ylabel(rows[i], fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _size_of_cell(cells: Sequence[Sequence[Cell]]) -> tuple[float, float]:
    """The width and height in inches of a cell, of the ratio of what is in the first: the longer side is INCH."""
    first = next((cell for row in cells for cell in row if cell is not None), None)
    first = first[1] if isinstance(first, tuple) else first
    if first is None:
        return INCH, INCH
    w, h = first.size if isinstance(first, Image.Image) else (first.shape[1], first.shape[0])
    return INCH * w / max(w, h), INCH * h / max(w, h)


def curves(steps: Sequence[int], panels: Mapping[str, Num[np.ndarray, "steps images"]]) -> Figure:
    """Plot recorded values over the steps: a panel for each quantity, a line for each image.

    >>> import numpy as np
    >>> [ax.get_ylabel() for ax in curves([0, 5], {"loss": np.ones((2, 3)), "pushes": np.zeros((2, 3))}).axes]
    ['loss', 'pushes']
    """
    figure = Figure(figsize=(3 * len(panels), 2.6), layout="constrained")
    for ax, (name, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        ax.plot(steps, values, ".-", color="#35608d", alpha=max(0.25, 1 / max(values.shape[1], 1)))
        ax.set(xlabel="step", ylabel=name)
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.get_major_locator().set_params(integer=True)
    return figure
