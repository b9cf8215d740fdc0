"""`HeatMap`: a map over an image, or over the frames of a video, one number per position."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sdprobe.plot import mask_scores
from sdprobe.plot.frame_groups import shown_frames
from sdprobe.plot.map_to_mask import (
    MaskMethod,
    checked,
    fitted_to_picture,
    grid_of,
    largest_part,
    otsu_threshold,
    spread_over,
)
from sdprobe.plot.mask_of_object import mask_of_object
from sdprobe.plot.shown_map import ShownMap

THRESHOLD = 0.4  # the middle of the range 0.3 to 0.5 that Tang et al. (DAAM, ACL 2023) use on normalised maps


@dataclass(frozen=True, eq=False, repr=False)
class HeatMap(ShownMap):
    """A map over an image: `values` ``[h, w]``, usually not negative, at the size it was recorded at.

    That of a video is ``[frames, h, w]``, with a frame for each latent frame. It is normalized, cut and compared with
    a mask as a whole, over all places of all frames; `frame` is the map of one of them, `film` shows all.

    >>> import torch
    >>> import sdprobe
    >>> corner = torch.zeros(4, 4)
    >>> corner[:2, :2] = 3.0
    >>> heat = sdprobe.HeatMap(corner, "corner")
    >>> heat
    HeatMap('corner', 4×4)
    >>> heat.normalized().values.max(), heat.iou(corner > 0)
    (tensor(1.), 1.0)
    >>> moving = sdprobe.HeatMap(torch.eye(3).reshape(3, 1, 3), "from left to right")
    >>> moving, moving.frame(2).values
    (HeatMap('from left to right', 3×1×3), tensor([[0., 0., 1.]]))

    Args:
        values: ``[h, w]``, or ``[frames, h, w]``.
        word: the word it is the map of.
        picture: the image under it, if there is one; of a video, the sequence of its frames: as many as the map has,
            or more, each latent frame being decoded to several.

    Raises ValueError for values of other axes, and for a picture where frames are needed, or the other way round.
    """

    def mask(
        self,
        threshold: float = THRESHOLD,
        *,
        method: MaskMethod = "threshold",
        affinity: Float[Tensor, "places seen"] | None = None,
        largest: bool = False,
    ) -> Bool[Tensor, "*frames h w"]:
        """Return the mask of the object, at the map's size; of a video ``[frames, h, w]``.

        >>> import torch
        >>> import sdprobe
        >>> heat = sdprobe.HeatMap(torch.tensor([[9.0, 8.0, 3.0], [2.0, 1.0, 6.0]]))
        >>> heat.mask(0.5)
        tensor([[ True,  True, False],
                [False, False,  True]])
        >>> heat.mask(method="otsu", largest=True)
        tensor([[ True,  True, False],
                [False, False, False]])

        Args:
            threshold: in [0, 1] on the normalized map; not used by ``"otsu"``.
            method: ``"threshold"``: where the normalized map is above the threshold. ``"otsu"``: the same with the
                threshold of the map itself that parts its values best. ``"self_attention"``: the map is spread along
                self-attention (`spread`), normalized, and cut at the threshold. ``"crf"``: a fully connected
                conditional random field over the picture, resized to the map; the log odds of the object at a place of
                the normalized value v are logit(v) − logit(threshold). For the borders of the picture, resize the map
                to its size first.
            affinity: for ``"self_attention"``: which places look at which, ``run[SelfAttentionMaps].matrix(image)``.
            largest: only the largest part whose places are connected across their edges; in a video also from a frame
                to the same place of the next.

        Raises:
            ValueError: for another method, and for what a method needs and was not given.
            ImportError: for ``"otsu"`` without scikit-image, and ``"crf"`` without pydensecrf, with what to install.

        Source: Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms"; Nguyen et al. 2023, "Dataset
        Diffusion" (NeurIPS), section 3, for self-attention; Krähenbühl & Koltun 2011, "Efficient Inference in Fully
        Connected CRFs with Gaussian Edge Potentials" (NIPS), with ten iterations, a kernel of 3 pixels and weight 3,
        and one of 80 pixels, 13 grey levels and weight 10.
        """
        return self._mask_at(self.size, threshold, method, affinity, largest)

    def spread(self, affinity: Float[Tensor, "places seen"]) -> HeatMap:
        """Return the map spread along self-attention, at its grid: a place gets the mean of what it looks at.

        S v, where S is the affinity, each row divided by its sum, and v the map, resized bilinearly.

        Args:
            affinity: ``run[SelfAttentionMaps].matrix(image)``, of a grid with the map's ratio of height to width; of a
                video between the places of all frames, as many as the map has.

        Raises ValueError for a matrix of another grid, and for rows that are no shares of attention.
        """
        grid = grid_of(affinity, self.size, self.frames)
        return replace(self, values=spread_over(self.resize(grid, "bilinear").values, affinity))

    def iou(self, mask: Shaped[Any, "*frames h w"], threshold: float = THRESHOLD, **how: Any) -> float:
        """Return intersection over union with the mask of an object, at the mask's size; 0 if both are empty.

        |A ∩ B| / |A ∪ B|, for the map's own mask A, cut at the size of B, and the mask B.

        Args:
            mask: the mask of the object, ``[h, w]``: True, or another number than 0, at its places. Of a video
                ``[frames, h, w]``, for each frame of the map, or for each frame of the video; then the map of a latent
                frame stands for all that were decoded from it.
            threshold: as for `mask`.
            how: ``method`` and others, as for `mask`.

        Raises ValueError for a mask of other axes than the map, or whose aspect ratio is not that of the image.

        Source: as DAAM's ``expand_as`` and ``compute_iou`` (daam 0.2.0), for square pictures; for others daam resizes
        maps to (width, height).
        """
        return mask_scores.iou(*self._masks(mask, threshold, how))

    def ioa(self, mask: Shaped[Any, "*frames h w"], threshold: float = THRESHOLD, **how: Any) -> float:
        """Return intersection over the area of the map's own mask, |A ∩ B| / |A|: its precision; 0 if it is empty.

        The arguments, what is raised and the source are those of `iou`; in daam it is ``compute_ioa``.
        """
        return mask_scores.ioa(*self._masks(mask, threshold, how))

    def dice(self, mask: Shaped[Any, "*frames h w"], threshold: float = THRESHOLD, **how: Any) -> float:
        """Return Dice's coefficient, 2 |A ∩ B| / (|A| + |B|), which is F1; 0 if both are empty.

        The arguments and what is raised are those of `iou`. Source: Dice 1945.
        """
        return mask_scores.dice(*self._masks(mask, threshold, how))

    def precision_recall(self, mask: Shaped[Any, "*frames h w"]) -> mask_scores.PrecisionRecall:
        """Return precision and recall of the map for every threshold of its values, at the mask's size.

        >>> import torch
        >>> import sdprobe
        >>> heat = sdprobe.HeatMap(torch.tensor([[4.0, 3.0], [2.0, 1.0]]))
        >>> heat.precision_recall(torch.tensor([[1, 0], [1, 0]])).precision
        tensor([1.0000, 0.5000, 0.6667, 0.5000], dtype=torch.float64)

        Raises ValueError as `iou`, and for an empty mask. Formula and source: `sdprobe.plot.precision_recall`.
        """
        truth = self._fitting(mask)
        return mask_scores.precision_recall(self._like(truth, self.resize(size_of(truth)).values), truth, self.word)

    def average_precision(self, mask: Shaped[Any, "*frames h w"]) -> float:
        """Return the area under precision and recall over all thresholds, Σ (R_n − R_(n−1)) P_n, at the mask's size.

        It needs no threshold, and only the order of the map's values counts.

        Raises ValueError as `precision_recall`. Source: `sdprobe.plot.average_precision`.
        """
        return self.precision_recall(mask).area

    def points_into(self, mask: Shaped[Any, "*frames h w"]) -> bool:
        """The pointing game (Zhang et al. 2016): whether the maximum, at the mask's size, is in the mask.

        A map that is the same everywhere has no maximum, and points nowhere. Raises ValueError as for `iou`.
        """
        truth = self._fitting(mask)
        own = self._like(truth, self.resize(size_of(truth)).values)
        return bool(own.max() > own.min() and truth.flatten()[own.argmax()])

    def _mask_at(
        self,
        size: tuple[int, int],
        threshold: float,
        method: str = "threshold",
        affinity: Any = None,
        largest: Any = False,
    ) -> Bool[Tensor, "*frames h w"]:
        way = checked(method, affinity, self.picture)
        heat = self if affinity is None else self.spread(affinity)
        if heat.size != size:
            heat = heat.resize(size)
        own = heat.normalized().values
        if way == "crf":
            shown = [self.pictures[i] for i in shown_frames(self._groups())] if self.is_video else self.pictures
            each = own if self.is_video else own.unsqueeze(0)
            fitted = [fitted_to_picture(of, threshold, under) for of, under in zip(each, shown, strict=True)]
            found = torch.stack(fitted).reshape(own.shape)
        else:
            found = own > (otsu_threshold(own) if way == "otsu" else threshold)
        return largest_part(found) if largest else found

    def _masks(
        self, mask: Any, threshold: float, how: Any
    ) -> tuple[Bool[Tensor, "*frames h w"], Bool[Tensor, "*frames h w"]]:
        truth = self._fitting(mask)
        return self._like(truth, self._mask_at(size_of(truth), threshold, **how)), truth

    def _fitting(self, mask: Any) -> Bool[Tensor, "*frames h w"]:
        """Return a mask as a tensor; refuse one whose shape does not match the map or the image."""
        shown = (self.pictures[0].height, self.pictures[0].width) if self.pictures else None
        frames = len(self.pictures) if self.is_video else 0
        return mask_of_object(mask, self.values.shape, shown, frames, self.values.device)

    def _like(self, truth: Tensor, own: Shaped[Tensor, "*frames h w"]) -> Shaped[Tensor, "*truth h w"]:
        """Return values at the frames of a mask: those of the map, or of the video."""
        return own if truth.ndim == 2 or len(truth) == len(own) else own[self._groups()]


def size_of(mask: Shaped[Tensor, "*frames h w"]) -> tuple[int, int]:
    return mask.shape[-2], mask.shape[-1]
