"""Losses on pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.losses.loss import Loss, PerImage, Pictures, as_tensor, made_again, said
from sdprobe.shapes import COLOURS

Axis = Literal["left-right", "up-down"]
LUMA = (0.2126, 0.7152, 0.0722)


@made_again
def blue(target: float = 0.9) -> Loss:
    """The mean distance of the blue channel to a value, a common first example of guidance.

    >>> import torch
    >>> blue()(torch.full((1, 3, 8, 8), 0.9))
    tensor([0.])

    Source: Whitaker 2022, "Stable Diffusion Deep Dive", whose target is 0.9.
    """
    return Loss(
        said("blue", [target] if target != 0.9 else []),
        lambda pictures: (pictures[:, 2] - target).abs().flatten(1).mean(1),
    )


@made_again
def colour(rgb: str | Sequence[float], mask: Any = None) -> Loss:
    """The mean squared distance of the pixels to a colour, over all pixels or a mask.

    >>> import torch
    >>> grey = torch.full((1, 3, 8, 8), 0.5)
    >>> colour((0.5, 0.5, 0.5))(grey), colour((0, 0, 0))(grey)
    (tensor([0.]), tensor([0.2500]))

    Args:
        rgb: three numbers in [0, 1], or the name of a colour of the embedded model.
        mask: ``[height, width]``, the weight of each pixel; None for equal weights.

    Raises:
        ValueError: for an unknown colour name.
    """
    if isinstance(rgb, str) and rgb not in COLOURS:
        raise ValueError(f"{rgb!r} is no colour known here; known: {', '.join(COLOURS)}; or give three numbers")
    values = [level / 255 for level in COLOURS[rgb]] if isinstance(rgb, str) else list(rgb)
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"a colour is three numbers in [0, 1], not {rgb!r}")
    return Loss(
        said("colour", [rgb, *([] if mask is None else ["mask"])]),
        lambda pictures: _weighted((pictures - pictures.new_tensor(values)[:, None, None]).square().mean(1), mask),
    )


@made_again
def brightness(target: float) -> Loss:
    """The squared distance of an image's mean luminance to a value in [0, 1].

    >>> import torch
    >>> brightness(0.5)(torch.full((1, 3, 8, 8), 0.25)).round(decimals=4)
    tensor([0.0625])

    Source: ITU-R BT.709, item 3.2, for the weights of red, green and blue.
    """

    def of(pictures: Pictures) -> PerImage:
        light = (pictures * pictures.new_tensor(LUMA)[:, None, None]).sum(1)
        return (light.flatten(1).mean(1) - target).square()

    return Loss(said("brightness", [target]), of)


@made_again
def symmetry(axis: Axis = "left-right") -> Loss:
    """The mean squared difference between an image and its mirror image.

    >>> import torch
    >>> left = torch.zeros(1, 3, 8, 8)
    >>> left[..., :4] = 1
    >>> symmetry()(left), symmetry("up-down")(left)
    (tensor([1.]), tensor([0.]))
    """
    if axis not in get_args(Axis):
        raise ValueError(f"axis is {' or '.join(map(repr, get_args(Axis)))}, not {axis!r}")
    side = -1 if axis == "left-right" else -2
    return Loss(
        said("symmetry", [axis] if axis != "left-right" else []),
        lambda pictures: (pictures - pictures.flip(side)).square().flatten(1).mean(1),
    )


@made_again
def total_variation() -> Loss:
    """The mean absolute difference of neighbouring pixels: large for noise, 0 for flat areas.

    >>> import torch
    >>> total_variation()(torch.ones(1, 3, 8, 8))
    tensor([0.])

    Source: Rudin, Osher & Fatemi 1992, "Nonlinear total variation based noise removal algorithms", here anisotropic.
    """
    return Loss(
        "total_variation()",
        lambda pictures: (
            pictures.diff(dim=-1).abs().flatten(1).mean(1) + pictures.diff(dim=-2).abs().flatten(1).mean(1)
        ),
    )


@made_again
def match(picture: Any, mask: Any = None) -> Loss:
    """The mean squared distance to an image, over all pixels or a mask.

    >>> import torch
    >>> match(torch.ones(1, 3, 8, 8), mask=torch.eye(8))(torch.zeros(2, 3, 8, 8))
    tensor([1., 1.])

    Args:
        picture: PIL, a uint8 array ``[H, W, 3]`` or a tensor ``[1, 3, H, W]`` in [0, 1], of the run's size.
        mask: ``[height, width]``, the weight of each pixel; None for equal weights.

    Source: Avrahami et al. 2022, "Blended Diffusion", eq. 6: its background loss, with a mask of the background.
    """
    target = as_tensor(picture)
    return Loss(
        said("match", [type(picture).__name__, *([] if mask is None else ["mask"])]),
        lambda pictures: _weighted((pictures - target.to(pictures)).square().mean(1), mask),
    )


@made_again
def inside(mask: Any, loss: Callable[[Pictures], PerImage]) -> Loss:
    """Any loss, limited to a region: it gets the whole image, but has a gradient only at pixels in the mask.

    >>> import torch
    >>> picture = torch.zeros(1, 3, 8, 8, requires_grad=True)
    >>> inside(torch.eye(8), blue())(picture).sum().backward()
    >>> torch.equal(picture.grad[0, 2] != 0, torch.eye(8).bool())
    True

    Args:
        mask: ``[height, width]``, of the image's size.
        loss: the loss.
    """

    def of(pictures: Pictures) -> PerImage:
        here = torch.as_tensor(np.asarray(mask), device=pictures.device) > 0
        return loss(torch.where(here, pictures, pictures.detach()))

    return Loss(said("inside", ["mask", loss]), of)


def _weighted(errors: Float[Tensor, "images height width"], mask: Any) -> PerImage:
    if mask is None:
        return errors.flatten(1).mean(1)
    weights = torch.as_tensor(np.asarray(mask), dtype=errors.dtype, device=errors.device)
    if weights.shape != errors.shape[-2:] or not weights.sum() > 0:
        size = "×".join(map(str, errors.shape[-2:]))
        raise ValueError(f"a mask has the picture's size, {size}, and is not empty; this is {tuple(weights.shape)}")
    return (errors * weights).flatten(1).sum(1) / weights.sum()
