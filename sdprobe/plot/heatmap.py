"""`HeatMap`: a map over an image, one number per position."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdprobe.plot import figures as plot
from sdprobe.plot import mask_scores
from sdprobe.plot.map_to_mask import (
    MaskMethod,
    checked,
    fitted_to_picture,
    grid_of,
    largest_part,
    otsu_threshold,
    spread_over,
)

THRESHOLD = 0.4  # the middle of the range 0.3 to 0.5 that Tang et al. (DAAM, ACL 2023) use on normalised maps


def resize(values: Float[Tensor, "*more h w"], size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resize maps; a map that already has the size is returned unchanged."""
    if tuple(values.shape[-2:]) == size:
        return values
    flat = values.reshape(-1, 1, *values.shape[-2:])
    corners = False if mode in ("bilinear", "bicubic") else None
    return F.interpolate(flat, size=size, mode=mode, align_corners=corners).reshape(*values.shape[:-2], *size)


def at_largest(maps: Iterable[Float[Tensor, "*more _ _"]]) -> Float[Tensor, "maps *more h w"]:
    """Return maps of one picture resized bilinearly to the largest of them, one after the other.

    >>> import torch
    >>> at_largest([torch.ones(2, 2), torch.zeros(4, 4)]).shape
    torch.Size([2, 4, 4])
    """
    every = list(maps)
    height, width = max((own.shape[-2:] for own in every), key=lambda size: size[0] * size[1])
    return torch.stack([resize(own, (height, width), "bilinear") for own in every])


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A map over an image: `values` ``[h, w]``, usually not negative, at the size it was recorded at.

    >>> import torch
    >>> import sdprobe
    >>> corner = torch.zeros(4, 4)
    >>> corner[:2, :2] = 3.0
    >>> heat = sdprobe.HeatMap(corner, "corner")
    >>> heat
    HeatMap('corner', 4×4)
    >>> heat.normalized().values.max(), heat.iou(corner > 0)
    (tensor(1.), 1.0)

    Args:
        values: ``[h, w]``.
        word: the word it is the map of.
        picture: the image under it, if there is one.
    """

    values: Float[Tensor, "h w"]
    word: str = ""
    picture: Image.Image | None = field(default=None, repr=False)

    def numpy(self) -> Float[np.ndarray, "h w"]:
        """Return the values as an array of numpy, in CPU memory; those in half precision as float32.

        >>> import torch
        >>> import sdprobe
        >>> sdprobe.HeatMap(torch.eye(2)).numpy()
        array([[1., 0.],
               [0., 1.]], dtype=float32)
        """
        own = self.values.detach().cpu()
        return (own.float() if own.dtype in (torch.float16, torch.bfloat16) else own).numpy()

    def resize(self, size: tuple[int, int], mode: str = "bicubic") -> HeatMap:
        """Return the map at another size ``(h, w)``: ``"bicubic"`` as in DAAM, ``"bilinear"``, ``"area"`` or others."""
        try:
            height, width = map(operator.index, size)
        except (TypeError, ValueError):
            raise ValueError(f"a map's size is (height, width), such as (64, 64), not {size!r}") from None
        if height < 1 or width < 1:
            raise ValueError(f"a map's height and width are 1 or more, not {height} and {width}")
        size = (height, width)
        return replace(self, values=resize(self.values.float(), size, mode))

    def normalized(self) -> HeatMap:
        """Return the map scaled from 0 at its minimum to 1 at its maximum; a constant map becomes 0."""
        own = self.values if self.values.is_floating_point() else self.values.float()
        low, width = own.min(), own.max() - own.min()
        return replace(self, values=(own - low) / torch.where(width > 0, width, 1))

    def mask(
        self,
        threshold: float = THRESHOLD,
        *,
        method: MaskMethod = "threshold",
        affinity: Float[Tensor, "places seen"] | None = None,
        largest: bool = False,
    ) -> Bool[Tensor, "h w"]:
        """Return the mask of the object, at the map's size.

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
            largest: only the largest part whose places are connected across their edges.

        Raises:
            ValueError: for another method, and for what a method needs and was not given.
            ImportError: for ``"otsu"`` without scikit-image, and ``"crf"`` without pydensecrf, with what to install.

        Source: Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms"; Nguyen et al. 2023, "Dataset
        Diffusion" (NeurIPS), section 3, for self-attention; Krähenbühl & Koltun 2011, "Efficient Inference in Fully
        Connected CRFs with Gaussian Edge Potentials" (NIPS), with ten iterations, a kernel of 3 pixels and weight 3,
        and one of 80 pixels, 13 grey levels and weight 10.
        """
        return self._mask_at(tuple(self.values.shape), threshold, method, affinity, largest)

    def spread(self, affinity: Float[Tensor, "places seen"]) -> HeatMap:
        """Return the map spread along self-attention, at its grid: a place gets the mean of what it looks at.

        S v, where S is the affinity, each row divided by its sum, and v the map, resized bilinearly.

        Args:
            affinity: ``run[SelfAttentionMaps].matrix(image)``, of a grid with the map's ratio of height to width.

        Raises ValueError for a matrix of another grid, and for rows that are no shares of attention.
        """
        grid = grid_of(affinity, (self.values.shape[0], self.values.shape[1]))
        return replace(self, values=spread_over(self.resize(grid, "bilinear").values, affinity))

    def iou(self, mask: Shaped[Any, "h w"], threshold: float = THRESHOLD, **how: Any) -> float:
        """Return intersection over union with the mask of an object, at the mask's size; 0 if both are empty.

        |A ∩ B| / |A ∪ B|, for the map's own mask A, cut at the size of B, and the mask B.

        Args:
            mask: the mask of the object, ``[h, w]``: True, or another number than 0, at its places.
            threshold: as for `mask`.
            how: ``method`` and others, as for `mask`.

        Raises ValueError for a mask that is not ``[h, w]``, or whose aspect ratio is not that of the image.

        Source: as DAAM's ``expand_as`` and ``compute_iou`` (daam 0.2.0), for square pictures; for others daam resizes
        maps to (width, height).
        """
        return mask_scores.iou(*self._masks(mask, threshold, how))

    def ioa(self, mask: Shaped[Any, "h w"], threshold: float = THRESHOLD, **how: Any) -> float:
        """Return intersection over the area of the map's own mask, |A ∩ B| / |A|: its precision; 0 if it is empty.

        The arguments, what is raised and the source are those of `iou`; in daam it is ``compute_ioa``.
        """
        return mask_scores.ioa(*self._masks(mask, threshold, how))

    def dice(self, mask: Shaped[Any, "h w"], threshold: float = THRESHOLD, **how: Any) -> float:
        """Return Dice's coefficient, 2 |A ∩ B| / (|A| + |B|), which is F1; 0 if both are empty.

        The arguments and what is raised are those of `iou`. Source: Dice 1945.
        """
        return mask_scores.dice(*self._masks(mask, threshold, how))

    def precision_recall(self, mask: Shaped[Any, "h w"]) -> mask_scores.PrecisionRecall:
        """Return precision and recall of the map for every threshold of its values, at the mask's size.

        >>> import torch
        >>> import sdprobe
        >>> heat = sdprobe.HeatMap(torch.tensor([[4.0, 3.0], [2.0, 1.0]]))
        >>> heat.precision_recall(torch.tensor([[1, 0], [1, 0]])).precision
        tensor([1.0000, 0.5000, 0.6667, 0.5000], dtype=torch.float64)

        Raises ValueError as `iou`, and for an empty mask. Formula and source: `sdprobe.plot.precision_recall`.
        """
        truth = self._fitting(mask)
        return mask_scores.precision_recall(self.resize((truth.shape[0], truth.shape[1])).values, truth, self.word)

    def average_precision(self, mask: Shaped[Any, "h w"]) -> float:
        """Return the area under precision and recall over all thresholds, Σ (R_n − R_(n−1)) P_n, at the mask's size.

        It needs no threshold, and only the order of the map's values counts.

        Raises ValueError as `precision_recall`. Source: `sdprobe.plot.average_precision`.
        """
        return self.precision_recall(mask).area

    def points_into(self, mask: Shaped[Any, "h w"]) -> bool:
        """The pointing game (Zhang et al. 2016): whether the maximum, at the mask's size, is in the mask.

        A map that is the same everywhere has no maximum, and points nowhere. Raises ValueError as for `iou`.
        """
        truth = self._fitting(mask)
        own = self.resize((truth.shape[0], truth.shape[1])).values
        return bool(own.max() > own.min() and truth.flatten()[own.argmax()])

    def overlay(self, ax: Any = None) -> Figure:
        """Plot the map over its image, on a new figure or on given axes."""
        return plot.overlay(self.picture, self._shown(), self.word, ax)

    def to_image(self) -> Image.Image:
        """Return the normalized map as a colour image, at the image's size if there is one."""
        return plot.colored(self._shown())

    def cell(self) -> plot.Cell:
        """Return the map as a cell of `sdprobe.plot.sheet`."""
        return self.picture, self._shown()

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.overlay().savefig(file, format="png")
        return file.getvalue()

    def _mask_at(
        self,
        size: tuple[int, ...],
        threshold: float,
        method: str = "threshold",
        affinity: Any = None,
        largest: Any = False,
    ) -> Bool[Tensor, "h w"]:
        way = checked(method, affinity, self.picture)
        heat = self if affinity is None else self.spread(affinity)
        if tuple(heat.values.shape) != size:
            heat = heat.resize((size[0], size[1]))
        own = heat.normalized().values
        if way == "crf" and self.picture is not None:
            found = fitted_to_picture(own, threshold, self.picture)
        else:
            found = own > (otsu_threshold(own) if way == "otsu" else threshold)
        return largest_part(found) if largest else found

    def _masks(self, mask: Any, threshold: float, how: Any) -> tuple[Bool[Tensor, "h w"], Bool[Tensor, "h w"]]:
        truth = self._fitting(mask)
        return self._mask_at(tuple(truth.shape), threshold, **how), truth

    def _fitting(self, mask: Any) -> Bool[Tensor, "h w"]:
        """Return a mask as a tensor; refuse one whose shape does not match the map or the image."""
        truth = torch.as_tensor(mask, device=self.values.device).bool()
        if truth.ndim != 2 or not truth.numel():
            raise ValueError(f"a mask is [h, w], a number for each place, not {list(truth.shape)}")
        own = tuple(self.values.shape)
        whole, of = ((self.picture.height, self.picture.width), "the picture") if self.picture else (own, "the map")
        height, width = truth.shape
        if (height, width) != own and height * whole[1] != width * whole[0]:
            raise ValueError(
                f"the mask is {height}×{width}, and {of} is {whole[0]}×{whole[1]}: give a mask of that size, or of "
                f"another with the same ratio of height to width"
            )
        return truth

    def _shown(self) -> Any:
        height, width = (self.picture.height, self.picture.width) if self.picture else self.values.shape
        shown = self.resize((height, width)).values.detach().clamp_min(0)
        return cast(Any, replace(self, values=shown).normalized().values.cpu().numpy())

    def __repr__(self) -> str:
        return f"HeatMap({self.word!r}, {self.values.shape[0]}×{self.values.shape[1]})"
