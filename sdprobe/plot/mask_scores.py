"""Scores of a map, or of the mask made from it, against the mask of an object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from matplotlib.figure import Figure
from torch import Tensor


def iou(own: Shaped[Any, "*frames h w"], truth: Shaped[Any, "*frames h w"]) -> float:
    """Return intersection over union of two masks, |A ∩ B| / |A ∪ B|; 0 if both are empty.

    >>> import torch
    >>> left, top = torch.tensor([[1, 0], [1, 0]]), torch.tensor([[1, 1], [0, 0]])
    >>> round(iou(left, top), 3), ioa(left, top), dice(left, top)
    (0.333, 0.5, 0.5)

    Args:
        own: a mask ``[h, w]``: True, or another number than 0, at its places; of a video ``[frames, h, w]``.
        truth: a mask of the same size.

    Raises ValueError for masks of different sizes, or of other axes.

    Source: Jaccard 1901; as DAAM's ``compute_iou`` (daam 0.2.0, ``daam/evaluate.py``) for masks of one size.
    """
    a, b = _alike(own, truth)
    return _ratio((a & b).sum(), (a | b).sum())


def ioa(own: Shaped[Any, "*frames h w"], truth: Shaped[Any, "*frames h w"]) -> float:
    """Return intersection over the area of the first mask, |A ∩ B| / |A|: its precision; 0 if it is empty.

    Args:
        own: a mask, as for `iou`.
        truth: a mask of the same size.

    Raises ValueError as `iou`.

    Source: Tang et al. 2023, "What the DAAM" (ACL), section 4 (intersection over area of two words' maps);
    ``compute_ioa`` of daam 0.2.0 for masks of one size.
    """
    a, b = _alike(own, truth)
    return _ratio((a & b).sum(), a.sum())


def dice(own: Shaped[Any, "*frames h w"], truth: Shaped[Any, "*frames h w"]) -> float:
    """Return Dice's coefficient of two masks, 2 |A ∩ B| / (|A| + |B|), which is their F1; 0 if both are empty.

    Args:
        own: a mask, as for `iou`.
        truth: a mask of the same size.

    Raises ValueError as `iou`.

    Source: Dice 1945, "Measures of the Amount of Ecologic Association Between Species".
    """
    a, b = _alike(own, truth)
    return _ratio(2 * (a & b).sum(), a.sum() + b.sum())


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall of the places above a threshold, for every threshold at which they change.

    Args:
        precision: the part of the places found that are the object's, by threshold.
        recall: the part of the object's places that are found.
        thresholds: from the highest to the lowest; a place is found if its value is at least this.
        word: the word of the map.
    """

    precision: Float[Tensor, " thresholds"]
    recall: Float[Tensor, " thresholds"]
    thresholds: Float[Tensor, " thresholds"]
    word: str = field(default="", repr=False)

    @property
    def area(self) -> float:
        """The average precision, Σ (R_n − R_(n−1)) P_n over the thresholds n, with R_0 = 0."""
        gained = torch.diff(self.recall, prepend=self.recall.new_zeros(1))
        return float((gained * self.precision).sum())

    def plot(self, ax: Any = None) -> Figure:
        """Plot precision against recall, in the steps in which the area is counted."""
        figure = Figure(figsize=(3, 2.8), layout="constrained") if ax is None else ax.figure
        ax = figure.subplots() if ax is None else ax
        recall, precision = (
            torch.cat([own[:1] * start, own]) for own, start in ((self.recall, 0), (self.precision, 1))
        )
        ax.step(recall.numpy(), precision.numpy(), where="pre", color="#35608d")
        ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
        ax.set_title(f"{self.word}: average precision {self.area:.3f}".removeprefix(": "), fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        return figure

    def __repr__(self) -> str:
        return f"PrecisionRecall({len(self.thresholds)} thresholds, average precision {self.area:.3f})"


def precision_recall(
    values: Shaped[Any, "*frames h w"], truth: Shaped[Any, "*frames h w"], word: str = ""
) -> PrecisionRecall:
    """Return precision and recall of a map for every threshold of its values.

    P(t) = |{v ≥ t} ∩ B| / |{v ≥ t}| and R(t) = |{v ≥ t} ∩ B| / |B|, for every value t of the map v

    >>> import torch
    >>> precision_recall(torch.tensor([[4.0, 3.0], [2.0, 1.0]]), torch.tensor([[1, 0], [1, 0]]))
    PrecisionRecall(4 thresholds, average precision 0.833)

    Args:
        values: a map of any range; only the order of its values counts.
        truth: the mask of the object, of the same size.
        word: what the curve is called when it is plotted.

    Raises ValueError for sizes that differ, for an empty mask, which has no recall, and for values that are not finite.

    Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge", section 4.2, without
    interpolation, as scikit-learn's ``average_precision_score``; Chefer et al. 2021, "Transformer Interpretability
    Beyond Attention Visualization" (CVPR), section 4, scores maps against masks by it.
    """
    inside = _mask(truth).flatten()
    found = torch.as_tensor(values).detach().cpu().double()
    if found.shape != torch.as_tensor(truth).shape:
        raise ValueError(f"a map of {list(found.shape)} and a mask of {list(torch.as_tensor(truth).shape)}")
    if not inside.any():
        raise ValueError("the mask is empty: there is no object whose recall could be measured")
    if not found.isfinite().all():
        raise ValueError("the map has values that are not finite, so its places have no order")
    ordered, places = found.flatten().sort(descending=True, stable=True)
    # Equal values are above the same thresholds: only the last of each counts.
    last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])
    hits = inside[places].double().cumsum(0)[last]
    above = torch.arange(1, len(ordered) + 1, dtype=torch.float64)[last]
    return PrecisionRecall(hits / above, hits / hits[-1], ordered[last], word)


def average_precision(values: Shaped[Any, "*frames h w"], truth: Shaped[Any, "*frames h w"]) -> float:
    """Return the area under precision and recall of a map: 1 if all places of the object are above all others.

    AP = Σ (R_n − R_(n−1)) P_n over all thresholds n, from the highest; that of a map without order is |B| / (h·w).

    Args:
        values: a map, as for `precision_recall`.
        truth: the mask of the object, of the same size.

    Raises ValueError as `precision_recall`.

    Source: as for `precision_recall`.
    """
    return precision_recall(values, truth).area


def _alike(own: Any, truth: Any) -> tuple[Bool[Tensor, "*frames h w"], Bool[Tensor, "*frames h w"]]:
    a, b = _mask(own), _mask(truth)
    if a.shape != b.shape:
        raise ValueError(f"two masks of one size are compared, not of {_said(a)} and {_said(b)}")
    return a, b


def _mask(given: Any) -> Bool[Tensor, "*frames h w"]:
    mask = torch.as_tensor(np.asarray(given) if not isinstance(given, Tensor) else given).detach().cpu()
    if mask.ndim not in (2, 3) or not mask.numel():
        raise ValueError(
            f"a mask is [h, w], a number for each place, or [frames, h, w] of a video, not {list(mask.shape)}"
        )
    return mask.bool()


def _said(mask: Tensor) -> str:
    return "×".join(map(str, mask.shape))


def _ratio(part: Tensor, whole: Tensor) -> float:
    return part.item() / whole.item() if whole else 0.0
