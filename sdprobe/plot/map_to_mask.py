"""From a map to a mask: where to cut it, and what to take from the picture and its self-attention before."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage
from torch import Tensor

MaskMethod = Literal["threshold", "otsu", "self_attention", "crf"]

# Krähenbühl & Koltun's two kernels with the deviations and weights that pydensecrf documents: pixels, and grey levels.
SMOOTH = {"sxy": 3, "compat": 3}
ALIKE = {"sxy": 80, "srgb": 13, "compat": 10}
ITERATIONS = 10  # the paper's, section 3.1
SURE = 1e-4  # no place is surer than this before its neighbours are asked


def checked(method: str, affinity: Any, picture: object | None) -> MaskMethod:
    """Return the name of a way to make a mask. Raises ValueError for another name, and for what the way needs."""
    if method not in get_args(MaskMethod):
        raise ValueError(f"method is {', '.join(map(repr, get_args(MaskMethod)))}, not {method!r}")
    if method == "self_attention" and affinity is None:
        raise ValueError(
            "method='self_attention' needs affinity, a matrix of which places look at which: record it with "
            "looks = sdprobe.SelfAttentionMaps() and give affinity=run[looks].matrix(image)"
        )
    if method != "self_attention" and affinity is not None:
        raise ValueError(f"affinity is for method='self_attention'; method={method!r} does not use it")
    if method == "crf" and picture is None:
        raise ValueError("method='crf' follows the borders of the picture, and this map has none")
    return method  # type: ignore[return-value]


def grid_of(affinity: Float[Tensor, "places seen"], like: tuple[int, int], frames: int = 1) -> tuple[int, int]:
    """Return the height and width of a matrix's places, of the ratio of height to width of a map.

    Args:
        affinity: the matrix.
        like: height and width of the map.
        frames: how many frames the map has, and the grid of the matrix too.

    Raises ValueError if a matrix has no such grid.
    """
    (places, left), (h, w) = divmod(len(affinity), frames), like
    if affinity.ndim == 2 and affinity.shape[0] == affinity.shape[1] and not left:
        height = math.isqrt(places * h // w)
        if height and places == height * (places // height) and (places // height) * h == height * w:
            return height, places // height
    of_video = f" and its {frames} frames" if frames > 1 else ""
    raise ValueError(
        f"affinity is [places, places] of a grid with the map's ratio of height to width, {h}×{w}{of_video}, not "
        f"{list(affinity.shape)}: resize the map to the matrix's grid first, as in "
        f"heat.resize(run[looks].recorded_grid())"
    )


def spread_over(
    values: Float[Tensor, "*frames gh gw"], affinity: Float[Tensor, "places seen"]
) -> Float[Tensor, "*frames gh gw"]:
    """Return S v: each place gets the mean of what the places that it looks at have.

    Args:
        values: a map v.
        affinity: self-attention between its places. Its rows are divided by their sums, which makes S.

    Raises ValueError for a matrix with a row of zeros, or with negative numbers.
    """
    weights = affinity.to(values)
    sums = weights.sum(-1, keepdim=True)
    if (weights < 0).any() or not (sums > 0).all():
        raise ValueError("affinity holds shares of attention: none negative, and more than 0 in every row")
    spread: Tensor = torch.mv(weights / sums, values.flatten()).unflatten(0, values.shape)
    return spread


def otsu_threshold(values: Float[Tensor, "*frames h w"]) -> float:
    """Return the threshold that parts a map's values into two groups of the least variance within (Otsu 1979)."""
    try:
        from skimage.filters import threshold_otsu
    except ImportError as error:
        raise ImportError("method='otsu' needs scikit-image: pip install \"sdprobe[analysis]\"") from error
    return float(threshold_otsu(values.detach().cpu().numpy()))


def fitted_to_picture(values: Float[Tensor, "h w"], threshold: float, picture: Image.Image) -> Bool[Tensor, "h w"]:
    """Return the mask that a fully connected conditional random field makes of a map and the picture under it.

    Args:
        values: the normalised map, in [0, 1].
        threshold: where object and background are equally probable before the picture is looked at, in (0, 1).
        picture: the picture; it is resized to the map.

    Raises:
        ValueError: for a threshold that is not between 0 and 1.
        ImportError: without pydensecrf.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"method='crf' needs a threshold between 0 and 1, not {threshold!r}")
    try:
        from pydensecrf import densecrf
        from pydensecrf.utils import unary_from_softmax
    except ImportError as error:
        raise ImportError(
            "method='crf' needs pydensecrf, which is compiled when it is installed: pip install \"sdprobe[crf]\""
        ) from error
    height, width = values.shape
    inside = values.detach().cpu().double().clamp(SURE, 1 - SURE)
    inside = torch.sigmoid(torch.logit(inside) - math.log(threshold / (1 - threshold))).float()
    # It takes the width first, and arrays that it may write into, in C order.
    field = densecrf.DenseCRF2D(width, height, 2)
    field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(torch.stack([1 - inside, inside]).numpy())))
    field.addPairwiseGaussian(**SMOOTH)
    seen = np.array(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    field.addPairwiseBilateral(rgbim=seen, **ALIKE)
    found = np.asarray(field.inference(ITERATIONS)).argmax(0).reshape(height, width) == 1
    return torch.from_numpy(found).to(values.device)


def largest_part(mask: Bool[Tensor, "*frames h w"]) -> Bool[Tensor, "*frames h w"]:
    """Return the largest connected part of a mask; the first in reading order of several, and an empty mask as it is.

    Places are connected across edges, not across corners (4-connectivity); in a video also to the same place of the
    frame before and after (6-connectivity).
    """
    labels, count = ndimage.label(mask.detach().cpu().numpy())
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    return torch.from_numpy(labels == 1 + sizes.argmax()).to(mask.device)
