"""`gaussian_blur`: a picture blurred with a Gaussian, in both directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor


def gaussian_blur(
    x: Shaped[Tensor, "rows channels *size"], sigma: float, reach: tuple[int, int]
) -> Shaped[Tensor, "rows channels *size"]:
    """Blur with a Gaussian; the edges are mirrored.

    >>> line = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).expand(1, 1, 3, 5)
    >>> [round(float(own), 3) for own in gaussian_blur(line, 1.0, (1, 1))[0, 0, 0]]
    [0.0, 0.274, 0.452, 0.274, 0.0]

    Args:
        x: what is blurred.
        sigma: the standard deviation, in positions.
        reach: how many positions the kernel goes to each side, down and across; less than the sides.
    """
    x = F.pad(x, (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    for own, shape in ((reach[1], (1, -1)), (reach[0], (-1, 1))):
        places = torch.arange(-own, own + 1, device=x.device, dtype=torch.float32)
        weights = torch.exp(-((places / sigma) ** 2) / 2)
        weights = (weights / weights.sum()).to(x.dtype).expand(x.shape[1], 1, -1)
        x = F.conv2d(x, weights.unflatten(-1, shape), groups=x.shape[1])
    return x
