"""`side_by_side`: one prompt under several settings, as a grid of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sdprobe import plot
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.sampling.loop import sample


def side_by_side(
    model: Model | Any,
    prompt: str,
    *,
    rows: Mapping[str, Sequence[Any]],
    columns: Mapping[str, Sequence[Any]],
    **settings: Any,
) -> Figure:
    """Plot images of one prompt and seed, over the values of two settings of `sdprobe.sample`.

    >>> import sdprobe
    >>> figure = sdprobe.side_by_side(
    ...     sdprobe.load(), "a red circle", rows={"scheduler": ["DDIM", "LMS"]}, columns={"steps": [2, 4]}, seed=0
    ... )
    >>> [ax.get_title() for ax in figure.axes[:2]], [ax.get_ylabel() for ax in figure.axes[::2]]
    (['steps 2', 'steps 4'], ['DDIM', 'LMS'])

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        prompt: the text.
        rows: the name of one setting and its values from top to bottom, for example ``{"scheduler": ["DDIM", "LMS"]}``.
        columns: the same for another setting, from left to right, for example ``{"steps": [5, 10, 20]}``.
        settings: the settings common to all images. The seed is 0 by default.

    Raises:
        ValueError: for rows or columns that are not one setting with its values; and as for `sdprobe.sample`.
    """
    own = load(model)
    (row, downwards), (column, across) = _only("rows", rows), _only("columns", columns)
    settings = {"seed": 0, "progress": False} | settings
    cells = [[sample(own, prompt, **settings | {row: r, column: c}).images[0] for c in across] for r in downwards]
    return plot.sheet(cells, [_label(row, r) for r in downwards], [_label(column, c) for c in across])


def _only(name: str, given: Mapping[str, Sequence[Any]]) -> tuple[str, Sequence[Any]]:
    if len(given) != 1 or not all(given.values()):
        raise ValueError(f"{name} are one setting and its values, as {{'steps': [5, 10]}}, not {dict(given)!r}")
    return next(iter(given.items()))


def _label(name: str, value: Any) -> str:
    if name == "scheduler":  # its name says what it is
        shown = value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
        return str(shown).removesuffix("Scheduler")
    return f"{name.replace('_', ' ')} {value}"
