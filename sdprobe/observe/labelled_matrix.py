"""`LabelledMatrix`: attention from each token or place to each token or place, with the names of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe.core.data_frame import data_frame, each_cell
from sdprobe.core.grid import Grid
from sdprobe.core.prompt import Prompt
from sdprobe.plot.figures import HEAT
from sdprobe.plot.printable import printable

PAD, EMPTY = "<pad>", "<empty>"
SHOWN = 40  # labels along an axis that stay readable
FLOOR = 1e-5  # of the largest number: the least that a logarithmic scale of colours tells apart


@dataclass(frozen=True, eq=False)
class LabelledMatrix:
    """Attention from the tokens or places of one part to those of another: ``values[from, to]``.

    >>> import torch
    >>> from sdprobe.observe.labelled_matrix import LabelledMatrix
    >>> matrix = LabelledMatrix(torch.eye(2), ("a", "<pad>"), ("0,0", "0,1"), "text", "image")
    >>> matrix
    LabelledMatrix(text→image, 2×2)
    >>> matrix.without_padding().rows
    ('a',)

    Args:
        values: ``[from, to]``, mean probabilities; what a row lacks to 1 goes to other parts.
        rows: the label of each row: a token as it is written, ``"<start>"``, ``"<end>"`` or ``"<pad>"``; or a place as
            ``"y,x"``. Where the tokens of several text encoders are joined, each word occurs once for each.
            ``"<empty>"`` is a position that no encoder fills: Stable Diffusion 3 without T5 has zeros there.
        columns: the label of each column.
        from_: the part that looks: ``"text"``, ``"image"``, or a text encoder's name.
        to: the part that is looked at.
    """

    values: Float[Tensor, "from to"]
    rows: tuple[str, ...] = field(repr=False)
    columns: tuple[str, ...] = field(repr=False)
    from_: str = "from"
    to: str = "to"

    def __post_init__(self) -> None:
        if tuple(self.values.shape) != (len(self.rows), len(self.columns)):
            raise ValueError(
                f"{list(self.values.shape)} numbers need a label for each row and column, not "
                f"{len(self.rows)} and {len(self.columns)}"
            )

    def without_padding(self) -> LabelledMatrix:
        """Return the matrix without padding tokens and empty positions. Then less goes to the parts that stay."""
        sides = (self.rows, self.columns)
        kept = [[i for i, label in enumerate(labels) if label not in (PAD, EMPTY)] for labels in sides]
        rows, columns = (tuple(labels[i] for i in own) for labels, own in zip(sides, kept, strict=True))
        return LabelledMatrix(self.values[kept[0]][:, kept[1]], rows, columns, self.from_, self.to)

    def numpy(self) -> Float[np.ndarray, "from to"]:
        """Return the values as an array of numpy, in CPU memory."""
        found: np.ndarray = self.values.detach().float().cpu().numpy()
        return found

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each pair, as labels may occur several times.

        >>> import torch
        >>> from sdprobe.observe.labelled_matrix import LabelledMatrix
        >>> LabelledMatrix(torch.tensor([[0.25, 0.5]]), ("0,0",), ("a", "a"), "image", "text").to_pandas()
           from  to from_label to_label  attention
        0     0   0        0,0        a       0.25
        1     0   1        0,0        a       0.50

        Raises ImportError if pandas is not installed.
        """
        cells = each_cell({"from": range(len(self.rows)), "to": range(len(self.columns))}, {"attention": self.numpy()})
        labels = {
            "from_label": np.asarray(self.rows, dtype=object)[cells["from"]],
            "to_label": np.asarray(self.columns, dtype=object)[cells["to"]],
        }
        return data_frame({"from": cells["from"], "to": cells["to"], **labels, "attention": cells["attention"]})

    def plot(self, log: bool = False, ax: Any = None) -> Figure:
        """Plot the matrix: who looks, down; what is looked at, across. Of many labels every so many is written.

        Args:
            log: whether colours follow the logarithm, which shows what one token that gets almost all hides.
            ax: axes to plot on; None for a new figure.
        """
        figure = Figure(figsize=(4.8, 4.2), layout="constrained") if ax is None else ax.figure
        ax = figure.subplots() if ax is None else ax
        values = self.numpy()
        high = float(values.max()) or 1.0
        norm = LogNorm(FLOOR * high, high) if log else None
        shown = np.maximum(values, FLOOR * high) if log else values
        limits = {"norm": norm} if log else {"vmin": 0, "vmax": high}
        image = ax.imshow(shown, cmap=HEAT, aspect="auto", interpolation="nearest", **limits)
        for axis, labels, rotation in ((ax.yaxis, self.rows, 0), (ax.xaxis, self.columns, 90)):
            every = -(-len(labels) // SHOWN)
            axis.set_ticks(range(0, len(labels), every))
            axis.set_ticklabels([printable(own) for own in labels[::every]], fontsize=6, rotation=rotation)
        ax.set_ylabel(f"from: {self.from_}", fontsize=9)
        ax.set_xlabel(f"to: {self.to}", fontsize=9)
        figure.colorbar(image, ax=ax, label="attention", shrink=0.8)
        return figure

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.plot().savefig(file, format="png")
        return file.getvalue()

    def __repr__(self) -> str:
        return f"LabelledMatrix({self.from_}→{self.to}, {len(self.rows)}×{len(self.columns)})"


def token_labels(prompt: Prompt) -> tuple[str, ...]:
    """Return each token as it is written; ``"<start>"``, ``"<end>"`` and ``"<pad>"`` for those that are added.

    >>> import sdprobe
    >>> token_labels(sdprobe.load().read("a red circle"))[:6]
    ('<start>', 'a', 'red', 'circle', '<end>', '<pad>')
    """
    roles = prompt.roles or ("word",) * len(prompt.ids)
    return tuple(prompt.spelt(i) if role == "word" else f"<{role}>" for i, role in enumerate(roles))


def place_labels(grid: Grid) -> tuple[str, ...]:
    """Return the places of a grid as ``"y,x"``, row by row; of a video ``"t,y,x"``, frame by frame.

    >>> place_labels((2, 2))
    ('0,0', '0,1', '1,0', '1,1')
    """
    return tuple(",".join(map(str, place)) for place in product(*map(range, grid)))
