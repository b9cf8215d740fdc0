"""`each_image`: numbers of images as factors of their tensors."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor


def each_image(values: Shaped[Tensor, " images"], x: Shaped[Tensor, "images ..."]) -> Shaped[Tensor, "images ..."]:
    """Return a number for each image with as many axes as a tensor of images, or of videos, which have one more.

    >>> import torch
    >>> each_image(torch.ones(2), torch.zeros(2, 4, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1, 1])
    """
    return values.view(-1, *[1] * (x.ndim - 1))
