"""`ProbeResult`: the scores of probes by module and step, as a table and as a figure beside their control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe.core.activations.record import ActivationKey
from sdprobe.core.data_frame import data_frame
from sdprobe.observe.fitted_probe import FittedProbe
from sdprobe.plot import HEAT
from sdprobe.plot.table import as_text

Place = tuple[ActivationKey, int | None]
INCH = 0.5  # a cell of the matrix
COLUMNS = 6  # steps that are printed
MOST = 16  # up to this number of steps, the values are written into the matrix


class ProbeResult:
    """What `LinearProbe.fit_each` found: a fitted probe for each module and step. Prints as a table.

    ``result["mid_block", 3]`` is the `FittedProbe` of a module at a step. With several tensors of a module, ask with
    its key.

    Args:
        fits: the probes, by key and number of the step.

    Attributes:
        keys: the tensors, in the order of the network: the rows of the matrices.
        indices: the numbers of the steps: the columns.

    ``score``, ``low``, ``high`` and ``control`` are ``[modules, steps]``; NaN where nothing was kept.
    """

    def __init__(self, fits: Mapping[Place, FittedProbe]) -> None:
        self.fits = dict(fits)
        self.keys = list(dict.fromkeys(key for key, _ in fits))
        self.indices = sorted({index for _, index in fits}, key=lambda index: (index is None, index or 0))

    def __getitem__(self, asked: tuple[ActivationKey | str, int | None]) -> FittedProbe:
        """Return the probe of a module at a step. Raises KeyError, with the choices, if there is none."""
        name, index = asked
        found = [key for key in self.keys if name in (key, key.name)]
        if len(found) == 1 and (found[0], index) in self.fits:
            return self.fits[found[0], index]
        if len(found) > 1:
            raise KeyError(f"{name!r} has several tensors: ask with one of {found}")
        raise KeyError(
            f"no probe of {name!r} at step {index}; modules: {', '.join(self._names)}; steps: {self.indices}"
        )

    @property
    def score(self) -> Float[Tensor, "modules steps"]:
        """The accuracy, or R², on held-out pictures."""
        return self._matrix(lambda fitted: fitted.score.value)

    @property
    def low(self) -> Float[Tensor, "modules steps"]:
        """The lower end of its interval of 95 %."""
        return self._matrix(lambda fitted: fitted.score.low)

    @property
    def high(self) -> Float[Tensor, "modules steps"]:
        """The upper end."""
        return self._matrix(lambda fitted: fitted.score.high)

    @property
    def control(self) -> Float[Tensor, "modules steps"]:
        """The score with shuffled labels."""
        return self._matrix(lambda fitted: fitted.control.value)

    @property
    def chance(self) -> float:
        """The share of the most frequent label; for R², 0."""
        return next(iter(self.fits.values())).chance

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each module and step.

        >>> import torch
        >>> import sdprobe
        >>> x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> fitted = sdprobe.LinearProbe().fit(x, (x[:, 2] > 0).tolist())
        >>> result = ProbeResult({(ActivationKey("mid_block"), 3): fitted})
        >>> result.to_pandas()[["module", "step", "measure", "pictures"]]
              module  step   measure  pictures
        0  mid_block     3  accuracy        40

        The other columns: ``side``, ``stream``, ``call``; ``score`` with its interval, ``low`` and ``high``; the same
        with shuffled labels, ``control``, ``control_low`` and ``control_high``; ``chance``.

        Raises ImportError if pandas is not installed.
        """
        rows = [
            {"module": key.name, "side": key.side, "stream": key.stream, "call": key.call, "step": index}
            | {"measure": own.measure, "score": own.score.value, "low": own.score.low, "high": own.score.high}
            | {"control": own.control.value, "control_low": own.control.low, "control_high": own.control.high}
            | {"chance": own.chance, "pictures": own.pictures}
            for (key, index), own in self.fits.items()
        ]
        return data_frame({name: [row[name] for row in rows] for name in rows[0]} if rows else {})

    def plot(self) -> Figure:
        """Plot the score of each module and step with its interval, and beside it the control, in the same colours.

        Grey numbers are of cells whose interval does not lie above chance.
        """
        rows, columns = len(self.keys), len(self.indices)
        written = columns <= MOST
        cell = INCH * (1.15 if written else 0.5)
        wide = 0.07 * max(map(len, self._names)) + 0.9
        size = (2 * cell * columns + wide, 0.72 * INCH * rows + 1.0)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        any_fit = next(iter(self.fits.values()))
        for ax, title, scores in zip(
            panels,
            (f"{any_fit.measure} on held-out pictures", "the same, labels shuffled"),
            ({at: own.score for at, own in self.fits.items()}, {at: own.control for at, own in self.fits.items()}),
            strict=True,
        ):
            values = self._matrix_of({at: own.value for at, own in scores.items()})
            image = ax.imshow(values, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
            for (key, index), own in scores.items() if written else ():
                x, y = self.indices.index(index), self.keys.index(key)
                style: dict[str, Any] = {"color": "black" if own.value > 0.6 else "white"}
                style |= {"alpha": 1.0 if own.low > self.chance else 0.55, "ha": "center", "va": "center"}
                ax.text(x, y - 0.14, f"{own.value:.2f}", fontsize=8, **style)
                ax.text(x, y + 0.27, f"{own.low:.2f}–{own.high:.2f}", fontsize=6, **style)
            ax.set_title(title, fontsize=9)
            ax.set_xticks(range(columns), ["" if own is None else str(own) for own in self.indices], fontsize=8)
            ax.set_yticks(range(rows), self._names, fontsize=8)
            ax.set_xlabel("step", fontsize=8)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=panels, fraction=0.02, pad=0.01)
        bar.ax.axhline(self.chance, color="white", linewidth=1.5)
        bar.set_ticks([0, self.chance, 1], labels=["0", f"chance {self.chance:.2f}", "1"], fontsize=8)
        bar.outline.set_visible(False)
        return figure

    def __repr__(self) -> str:
        shown = self.indices if len(self.indices) <= COLUMNS else self.indices[:: -(-len(self.indices) // COLUMNS)]
        any_fit = next(iter(self.fits.values()))
        steps = ["" if index is None else f"step {index}" for index in shown]
        head = [f"{any_fit.measure} [95 % interval]", *steps]
        body = [
            [name, *(str(self.fits[key, i].score) if (key, i) in self.fits else "" for i in shown)]
            for name, key in zip(self._names, self.keys, strict=True)
        ]
        means = [f"{self.control[:, self.indices.index(i)].nanmean():.2f}" for i in shown]
        chance = [f"{self.chance:.2f}"] * len(shown)
        table = [head, *body, ["shuffled labels, mean", *means], ["chance", *chance]]
        return "\n".join([*as_text(table), f"{any_fit.pictures} pictures"])

    @property
    def _names(self) -> list[str]:
        """The name of each module, with its stream and side where they are not those of most modules."""
        return [
            key.name + f" · {key.stream}" * (key.stream != "hidden") + f" · {key.side}" * (key.side != "output")
            for key in self.keys
        ]

    def _matrix(self, value: Callable[[FittedProbe], float]) -> Float[Tensor, "modules steps"]:
        return torch.from_numpy(self._matrix_of({at: value(own) for at, own in self.fits.items()}))

    def _matrix_of(self, values: Mapping[Place, float]) -> Float[np.ndarray, "modules steps"]:
        return np.array([[values.get((key, index), np.nan) for index in self.indices] for key in self.keys])
