"""`FlatActivations`: recorded activations as vectors, with a table of the picture, step and place of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.form import ActivationForm
from sdprobe.core.data_frame import data_frame

COLUMNS = ("picture", "role", "prompt", "step", "y", "x", "position", "token")


@dataclass(frozen=True)
class FlatActivations:
    """Vectors of activations, and a table that says what each of them is.

    Args:
        vectors: ``[samples, width]``; the width is that of the channels.
        table: for each column, one entry per vector. ``picture``: the number of the image in its run. ``role`` and
            ``prompt``: of the row of the denoiser's batch. ``step``: the number of the step, -1 outside of the steps.
            ``y`` and ``x``: the place in the grid of the image positions, row and column. ``position``: on the axis
            ``"positions"`` of the tensor, or row by row of an image ``[h, w]``. ``token``: the position of the prompt's
            token. -1 where there is no such thing.

    >>> from sdprobe.core.activations.form import RowLabel
    >>> form = ActivationForm(("rows", "channels", "h", "w"), (RowLabel(0, "cond", "a red circle"),), grid=(2, 3))
    >>> flat = flatten({4: (torch.arange(12.0).view(1, 2, 2, 3), form)})
    >>> flat
    FlatActivations(6 vectors of width 2)
    >>> flat.vectors[4], flat.table["y"][4], flat.table["x"][4], flat.table["step"][4]
    (tensor([ 4., 10.]), np.int64(1), np.int64(1), np.int64(4))
    """

    vectors: Shaped[Tensor, "samples width"]
    table: Mapping[str, np.ndarray]

    def to_pandas(self) -> Any:
        """Return the table as a data frame of pandas. Raises ImportError if pandas is not installed."""
        return data_frame(self.table)

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"FlatActivations({len(self.vectors)} vectors of width {self.vectors.shape[1]})"


def flatten(steps: Mapping[int | None, tuple[Tensor, ActivationForm]]) -> FlatActivations:
    """Return the vectors of one tensor of several steps, step by step, row by row, place by place."""
    tables = [_table(index, x, form) for index, (x, form) in steps.items()]
    vectors = [channels_last(x, form.axes).flatten(0, 1) for x, form in steps.values()]
    if len(kinds := {(x.shape[1], x.dtype) for x in vectors}) > 1:
        widths = " and ".join(f"{dtype} of width {width}" for width, dtype in sorted(kinds, key=str))
        raise ValueError(f"vectors of {widths} are not together: ask for one step")
    return FlatActivations(
        torch.cat(vectors), {name: np.concatenate([table[name] for table in tables]) for name in COLUMNS}
    )


def channels_last(x: Shaped[Tensor, "rows ..."], axes: Sequence[str]) -> Shaped[Tensor, "rows places width"]:
    """Return a tensor with its channels last and all places on one axis.

    >>> channels_last(torch.zeros(2, 320, 8, 8), ("rows", "channels", "h", "w")).shape
    torch.Size([2, 64, 320])
    """
    last = x.movedim(axes.index("channels"), -1) if "channels" in axes else x
    return last.unsqueeze(1) if last.ndim == 2 else last.flatten(1, -2)


def _table(index: int | None, x: Tensor, form: ActivationForm) -> dict[str, np.ndarray]:
    rows, places, _ = channels_last(x.to("meta"), form.axes).shape
    none = np.full(places, -1)
    found = {"y": none, "x": none, "position": none, "token": np.tile(none, rows)}
    first, past = form.image or (0, places)
    if places > 1 or len(form.axes) > 2:
        found["position"] = np.arange(places)
    if form.grid is not None:
        for name, at in zip(("x", "y"), np.indices(form.grid)[::-1], strict=False):
            found[name] = none.copy()
            found[name][first:past] = np.tile(at.ravel(), (past - first) // at.size)  # of attention, for each head
    if form.positions is not None:
        found["token"], found["position"] = np.array(form.positions).reshape(-1), none
    elif form.text is not None:
        tokens = none.copy()
        tokens[slice(*form.text)] = np.arange(form.text[1] - form.text[0])
        found["token"] = np.tile(tokens, rows)
    labels = {
        "picture": np.array([row.image for row in form.rows]),
        "role": np.array([row.role for row in form.rows], dtype=object),
        "prompt": np.array([row.prompt for row in form.rows], dtype=object),
    }
    return {
        **{name: np.repeat(own, places) for name, own in labels.items()},
        **{name: np.tile(found[name], rows) for name in ("y", "x", "position")},
        "step": np.full(rows * places, -1 if index is None else index),
        "token": found["token"],
    }
