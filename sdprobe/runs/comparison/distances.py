"""`Distance`: how far two recorded values are apart; and whether that is nothing, rounding, or more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL.Image import Image
from torch import Tensor

Verdict = Literal["equal", "rounding", "different"]

MULTIPLES = {torch.float16: 8, torch.bfloat16: 8}
OTHERS = 32
"""Up to how many times the dtype's eps a distance is called rounding.

The same run in batches of one and of three images differs after one call of the denoiser by 4 to 22 times eps in
float32, since guidance multiplies the rounding of two outputs; a call in half precision differs from one in float32 by
0.6 to 6.7 times eps (small models of five families, guidance 5). Half precision has no larger multiple, since changes
of several per cent would be called rounding.
"""


class Distance(NamedTuple):
    """How far two runs are apart in one value.

    Attributes:
        quantity: ``"latents"``, ``"noise_pred"``, ``"denoised"``, the same with ``" (statistics)"``, ``"attention"``,
            ``"activation"``, ``"final latents"`` or ``"picture"``.
        step: the number of the step; None outside the steps, and for attention that was summed over the steps.
        site: the module, and for an activation its side and stream; for attention summed over layers, the grid.
            Empty where there is none.
        image: the number of the image.
        role: of the row, ``"cond"`` or ``"uncond"``, for attention and activations; else empty.
        word: for attention, the word; empty for the attention to all recorded tokens together.
        distance: 0 for equal values; see `sdprobe.compare`.
        cosine: between the two values as vectors; NaN where one of them is 0, and for statistics.
        verdict: ``"equal"`` to the last bit, ``"rounding"`` or ``"different"``.
        limit: the largest distance that is called rounding here; of a picture, of each number.
    """

    quantity: str
    step: int | None
    site: str
    image: int
    role: str
    word: str
    distance: float
    cosine: float
    verdict: Verdict
    limit: float


def rounding_limit(*dtypes: torch.dtype) -> float:
    """Return the largest distance that is called rounding where these dtypes were computed or recorded in.

    >>> f"{rounding_limit(torch.float32):.1e} {rounding_limit(torch.float32, torch.float16):.1e}"
    '3.8e-06 7.8e-03'
    """
    return max((MULTIPLES.get(d, OTHERS) * torch.finfo(d).eps for d in dtypes if d.is_floating_point), default=0.0)


def relative_distance(a: Shaped[Tensor, ...], b: Shaped[Tensor, ...]) -> float:
    """Return the root mean square of the difference, divided by that of ``a``.

    >>> round(relative_distance(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5])), 6)
    0.1

    It is 0 for equal values, and infinite where ``a`` is 0 and ``b`` is not, and where a number is not finite in one
    of them only.
    """
    a, b = _alike(a, b)
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    apart = torch.where(same, 0.0, a - b)
    size = torch.where(a.isfinite(), a, 0.0).square().mean().sqrt()
    if not bool(apart.isfinite().all()) or not size:
        return float("inf")
    return float(apart.square().mean().sqrt() / size)


def map_distance(p: Float[Tensor, ...], q: Float[Tensor, ...]) -> float:
    """Return the distance of two maps that are not negative: the sum of ``|p - q|``, divided by that of ``p + q``.

    It is 0 for equal maps and 1 for maps that have no place in common. Where both have the same sum, it is the total
    variation distance of the maps, each divided by its sum. It is symmetric.

    >>> map_distance(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.5, 0.5]))
    0.5
    """
    p, q = _alike(p, q)
    same = (p == q) | (p.isnan() & q.isnan())
    if bool(same.all()):
        return 0.0
    total = float((p + q).sum())
    apart = float(torch.where(same, 0.0, p - q).abs().sum())
    return apart / total if np.isfinite(apart) and np.isfinite(total) and total > 0 else float("inf")


def statistics_distance(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """Return the least relative distance of two tensors of the same size that have these statistics.

    With n numbers, means m and variances v (divided by n - 1), it is
    ``sqrt(n (m_a - m_b)² + (n - 1) (sqrt(v_a) - sqrt(v_b))²)``, divided by the norm of ``a``.

    >>> x = torch.tensor([1.0, 2.0, 3.0])
    >>> least = statistics_distance(*((float(y.mean()), float(y.std()), float(y.norm())) for y in (x, 1.1 * x)))
    >>> round(least, 6), round(relative_distance(x, 1.1 * x), 6)
    (0.1, 0.1)

    Args:
        a: mean, standard deviation and norm.
        b: the same of the other.
    """
    if a == b:
        return 0.0
    (mean, std, norm), (other_mean, other_std, _) = a, b
    squared = mean**2 + std**2
    if not np.isfinite([*a, *b]).all() or not norm:
        return float("inf")
    count = (norm**2 + std**2) / squared
    return float((count * (mean - other_mean) ** 2 + (count - 1) * (std - other_std) ** 2) ** 0.5 / norm)


def cosine(a: Shaped[Tensor, ...], b: Shaped[Tensor, ...]) -> float:
    """Return the cosine between two values as vectors: 1 for equal ones, NaN where one of them is 0.

    >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0])), cosine(torch.zeros(2), torch.ones(2))
    (1.0, nan)
    """
    a, b = _alike(a, b)
    size = float(a.norm() * b.norm())
    if not np.isfinite(size) or not size:
        return float("nan")
    return 1.0 if torch.equal(a, b) else max(-1.0, min(1.0, float((a * b).sum()) / size))


def verdict_of(distance: float, limit: float) -> Verdict:
    """Return what a distance is called."""
    return "equal" if distance == 0 else "rounding" if distance <= limit else "different"


def picture_distance(a: Sequence[Image], b: Sequence[Image]) -> tuple[float, float, Verdict]:
    """Return the relative distance and the cosine of two pictures of one size, and what the distance is called.

    The numbers are those of the pixels, in [0, 1]. Rounding is at most one of the 255 levels in every number.

    Args:
        a: the picture, alone; or the frames of a video, which count as one picture.
        b: the other, of as many frames.
    """
    most, apart, size, other, along = 0, 0, 0, 0, 0
    for pair in zip(a, b, strict=True):
        x, y = (np.asarray(own.convert("RGB"), dtype=np.int64) for own in pair)
        most = max(most, int(np.abs(x - y).max()))
        apart, along = apart + int(((x - y) ** 2).sum()), along + int((x * y).sum())
        size, other = size + int((x**2).sum()), other + int((y**2).sum())
    verdict: Verdict = "equal" if not most else "rounding" if most == 1 else "different"
    distance = 0.0 if not apart else (apart / size) ** 0.5 if size else float("inf")
    alike = float("nan") if not size or not other else 1.0 if not apart else along / (size * other) ** 0.5
    return distance, alike, verdict


def _alike(a: Tensor, b: Tensor) -> tuple[Float[Tensor, " numbers"], Float[Tensor, " numbers"]]:
    """Return both as vectors in float64, in which neither is rounded."""
    first, second = (x.detach().cpu().to(torch.float64).flatten() for x in (a, b))
    return first, second
