"""`FittedProbe`: a linear readout of activations, its score on held-out pictures, and its direction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Kind = Literal["logistic", "ridge"]
Z = 1.959964  # the 95 % quantile of a normal distribution, two-sided
RESAMPLES = 1000


class Score(NamedTuple):
    """A score, with its interval of 95 % over the pictures.

    >>> print(Score(0.9, 0.82, 0.95))
    0.90 [0.82, 0.95]
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def accuracy(right: Float[np.ndarray, " pictures"]) -> Score:
    """Return the mean over the pictures with Wilson's interval (Wilson 1927).

    A picture of several positions counts once, with the share of them that is right: shares vary less than 0 and 1 of
    the same mean, so that the interval is then rather too wide than too narrow. Pictures count as independent; those of
    one fold share a fit, so that the interval of a probe that finds nothing is too narrow: with 120 pictures, width 20
    and random labels it missed chance in 11 of 100 cases instead of 5 (see Bates et al. 2024). The control's
    interval has the same fault.

    >>> import numpy as np
    >>> print(accuracy(np.ones(36)), accuracy(np.tile([0.0, 1.0], 50)))
    1.00 [0.90, 1.00] 0.50 [0.40, 0.60]
    """
    n, p = len(right), float(right.mean())
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * float(np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)))
    # At both ends the formula gives p itself, up to rounding.
    return Score(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)))


def explained(
    residual: Float[np.ndarray, " pictures"], total: Float[np.ndarray, " pictures"], random: np.random.Generator
) -> Score:
    """Return R², 1 - sum(residual) / sum(total), with a bootstrap interval over the pictures (Efron 1979).

    >>> import numpy as np
    >>> print(explained(np.zeros(20), np.ones(20), np.random.default_rng(0)))
    1.00 [1.00, 1.00]
    """
    drawn = random.integers(len(residual), size=(RESAMPLES, len(residual)))
    resampled = 1 - residual[drawn].sum(1) / np.maximum(total[drawn].sum(1), np.finfo(float).tiny)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Score(float(1 - residual.sum() / total.sum()), float(low), float(high))


def samples_of(x: Shaped[Tensor, "pictures ..."]) -> Float[np.ndarray, "pictures positions width"]:
    """Return activations as numbers of one form: several samples of each picture.

    >>> import torch
    >>> samples_of(torch.zeros(5, 8)).shape, samples_of(torch.zeros(5, 8, 4, 4)).shape
    ((5, 1, 8), (5, 16, 8))

    Raises:
        ValueError: for another number of axes, and for values that are not finite.
    """
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise ValueError(
            f"activations are [pictures, width], [pictures, positions, width] or [pictures, channels, h, w], not "
            f"{list(x.shape)}"
        )
    flat = x.detach().cpu().double()
    flat = flat[:, None] if x.ndim == 2 else flat.flatten(2).mT if x.ndim == 4 else flat
    if not flat.isfinite().all():
        raise ValueError("activations have values that are not finite: no probe can be fitted on them")
    return flat.numpy()


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """A probe fitted on all pictures, with the score of probes that were tried on pictures held out from their fit.

    >>> import torch
    >>> import sdprobe
    >>> x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    >>> fitted = sdprobe.LinearProbe().fit(x, (x[:, 2] > 0).tolist())
    >>> fitted
    FittedProbe(accuracy ... [...], shuffled labels ... [...], chance 0.5..., 60 pictures)
    >>> int(fitted.direction().abs().argmax()), fitted.predict(x[:2]) == (x[:2, 2] > 0).tolist()
    (2, True)

    Attributes:
        kind: ``"logistic"`` or ``"ridge"``.
        score: the accuracy, or R², on held-out pictures, with its interval.
        control: the same with the labels shuffled over the pictures: what is found where nothing is to be found.
        chance: the share of the most frequent label; for R², 0.
        classes: the labels, in the order of the weights; empty for R².
        weights: ``[classes, width]``, in the activation's own units; ``[1, width]`` for two classes and for numbers.
        bias: ``[classes]`` or ``[1]``.
        deviation: ``[width]``, the standard deviation of each channel; 0 where it does not vary.
        pictures: how many there were.
    """

    kind: Kind
    score: Score
    control: Score
    chance: float
    classes: tuple[Any, ...]
    weights: Float[Tensor, "outputs width"] = field(repr=False)
    bias: Float[Tensor, " outputs"] = field(repr=False)
    deviation: Float[Tensor, " width"] = field(repr=False)
    pictures: int

    @property
    def measure(self) -> str:
        """What the score is: ``"accuracy"`` or ``"R²"``."""
        return "R²" if self.kind == "ridge" else "accuracy"

    def direction(self, towards: Any = None) -> Float[Tensor, " width"]:
        """Return the unit vector along which the readout grows most: what a steering vector can be made of.

        Most for its length in deviations of each channel, so that the direction is the same in other units, and leaves
        a channel that does not vary as it is. What can be read need not be what the network uses (Belinkov 2022,
        section 4): to steer with it is the test.

        Args:
            towards: a label. With two labels, None is the last of `classes`; for numbers there is only None.

        Raises:
            ValueError: for a label that the probe does not know, and for None with three labels or more.
        """
        if towards is None and len(self.weights) == 1:
            gradient = self.weights[0]
        elif towards in self.classes:
            at = self.classes.index(towards)
            # Softmax does not change with a vector added to all weights, so only the difference has a meaning.
            two = len(self.weights) == 1
            gradient = (2 * at - 1) * self.weights[0] if two else (self.weights - self.weights.mean(0))[at]
        else:
            known = ", ".join(map(repr, self.classes)) or "none, for it predicts numbers"
            raise ValueError(f"no direction towards {towards!r}; the labels of this probe: {known}")
        return torch.nn.functional.normalize(self.deviation.square() * gradient, dim=0)

    def predict(self, x: Shaped[Tensor, "pictures ..."]) -> list[Any]:
        """Return the label, or number, of each picture; of several positions, by the mean of their readouts.

        Raises:
            ValueError: for activations of another width.
        """
        samples = torch.from_numpy(samples_of(x))
        if samples.shape[-1] != self.weights.shape[1]:
            raise ValueError(f"this probe reads activations of width {self.weights.shape[1]}, not {samples.shape[-1]}")
        readout = (samples @ self.weights.double().T + self.bias.double()).mean(1)
        if self.kind == "ridge":
            return [float(value) for value in readout[:, 0]]
        found = (readout[:, 0] > 0).long() if len(self.weights) == 1 else readout.argmax(1)
        return [self.classes[at] for at in found.tolist()]

    def __repr__(self) -> str:
        return (
            f"FittedProbe({self.measure} {self.score}, shuffled labels {self.control}, chance {self.chance:.2f}, "
            f"{self.pictures} pictures)"
        )
