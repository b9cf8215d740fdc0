"""`Effects`: a matrix of effects, each with its interval, such as that of modules by windows of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from sdprobe.core.data_frame import data_frame
from sdprobe.experiments.bootstrap import Estimate
from sdprobe.plot.table import as_html, as_text

Cell = tuple[str, str]
"""The labels of a row and of a column."""


@dataclass(frozen=True)
class Effects:
    """Effects by row and column; prints as a table.

    >>> effects = Effects({("mid_block", "0–3"): Estimate(0.5, 0.2, 0.8, 12)}, "share of the way", ("module", "steps"))
    >>> effects["mid_block", "0–3"].value, effects.values.shape
    (0.5, (1, 1))
    >>> effects
    share of the way [95 % interval]  0–3
    mid_block                         0.50 [0.20, 0.80]

    Args:
        cells: the mean over cases with its interval, by the labels of row and column.
        about: what the numbers are.
        axes: the names of rows and columns.
        unchanged: for each cell, in how many cases the final latents are those of the untouched condition, to the last
            bit: there it did nothing.
        tried: for each cell, in how many cases it was run: also those that have no effect, as a and b are alike there.
    """

    cells: Mapping[Cell, Estimate]
    about: str
    axes: tuple[str, str]
    unchanged: Mapping[Cell, int] = field(default_factory=dict)
    tried: Mapping[Cell, int] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        """The labels of the rows."""
        return tuple(dict.fromkeys(row for row, _ in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """The labels of the columns."""
        return tuple(dict.fromkeys(column for _, column in self.cells))

    @property
    def values(self) -> Float[np.ndarray, "rows columns"]:
        """The effects; NaN where there is none."""
        none = Estimate(np.nan, np.nan, np.nan, 0)
        return np.array([[self.cells.get((row, column), none).value for column in self.columns] for row in self.rows])

    def __getitem__(self, asked: Cell) -> Estimate:
        """Return the effect of a row and a column. Raises KeyError, with the choices, if there is none."""
        if asked not in self.cells:
            raise KeyError(
                f"no effect of {asked!r}; {self.axes[0]}: {', '.join(self.rows)}; {self.axes[1]}: "
                f"{', '.join(self.columns)}"
            )
        return self.cells[asked]

    def did_nothing(self, cell: Cell) -> bool:
        """Whether a cell left every case as it was, to the last bit."""
        return 0 < self.tried.get(cell, 0) == self.unchanged.get(cell, 0)

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each cell. Raises ImportError if pandas is not installed."""
        rows = [
            {**dict(zip(self.axes, cell, strict=True)), "effect": own.value, "low": own.low, "high": own.high}
            | {"cases": own.cases, "unchanged": self.unchanged.get(cell, 0)}
            for cell, own in self.cells.items()
        ]
        return data_frame({name: [row[name] for row in rows] for name in rows[0]} if rows else {})

    def __repr__(self) -> str:
        return "\n".join(as_text(self._table()))

    def _repr_html_(self) -> str:
        return as_html(self._table(), self.about)

    def _table(self) -> list[list[str]]:
        head = [f"{self.about} [95 % interval]", *self.columns]
        return [head, *([row, *(self._said((row, column)) for column in self.columns)] for row in self.rows)]

    def _said(self, cell: Cell) -> str:
        if cell not in self.cells:
            return ""
        return "nothing changed" if self.did_nothing(cell) else str(self.cells[cell])
