"""`HeatMap`: a map over an image, one number per position."""

from __future__ import annotations

import operator
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

THRESHOLD = 0.4  # the middle of the range 0.3 to 0.5 that Tang et al. (DAAM, ACL 2023) use on normalised maps


def resize(values: Float[Tensor, "*more h w"], size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resize maps; a map that already has the size is returned unchanged."""
    if tuple(values.shape[-2:]) == size:
        return values
    flat = values.reshape(-1, 1, *values.shape[-2:])
    corners = False if mode in ("bilinear", "bicubic") else None
    return F.interpolate(flat, size=size, mode=mode, align_corners=corners).reshape(*values.shape[:-2], *size)


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
        low, high = self.values.min(), self.values.max()
        return replace(self, values=(self.values - low) / (high - low + 1e-8))

    def mask(self, threshold: float = THRESHOLD) -> Bool[Tensor, "h w"]:
        """Return where the normalized map is above a threshold in [0, 1]."""
        return self.normalized().values > threshold

    def iou(self, mask: Shaped[Any, "h w"], threshold: float = THRESHOLD) -> float:
        """Return intersection over union with the mask of an object, at the mask's size; 0 if both are empty.

        Raises ValueError for a mask that is not ``[h, w]``, or whose aspect ratio is not that of the image.
        """
        truth = self._fitting(mask)
        own = self.resize((truth.shape[0], truth.shape[1])).mask(threshold)
        union = (own | truth).sum().item()
        return (own & truth).sum().item() / union if union else 0.0

    def points_into(self, mask: Shaped[Any, "h w"]) -> bool:
        """The pointing game (Zhang et al. 2016): whether the maximum, at the mask's size, is in the mask.

        Raises ValueError as for `iou`.
        """
        truth = self._fitting(mask)
        own = self.resize((truth.shape[0], truth.shape[1])).values
        return bool(truth.flatten()[own.argmax()])

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
        shown = self.resize((height, width)).values.clamp_min(0)
        return cast(Any, replace(self, values=shown).normalized().values.cpu().numpy())

    def __repr__(self) -> str:
        return f"HeatMap({self.word!r}, {self.values.shape[0]}×{self.values.shape[1]})"
