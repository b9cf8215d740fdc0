"""`linear_rgb`: latents as small images by a linear map, without the decoder."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

PICTURES, SIDE = 16, 16  # images for the fit, and the side of their latents: many more positions than unknowns
_fitted: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()


def linear_rgb(
    model: Any, latents: Shaped[Tensor, "images channels *frames h w"]
) -> Float[Tensor, "images 3 *frames h w"]:
    """Return clean latents as images in [0, 1], one pixel per position.

    Those of videos, with an axis of frames before the height, keep it.

    The map is fitted by least squares, once per autoencoder, to the latents of images of four coloured quarters.
    """
    if model.pipe.vae not in _fitted:
        _fitted[model.pipe.vae] = _fit(model)
    matrix = _fitted[model.pipe.vae].to(latents.device, non_blocking=True)
    return (_with_one(latents) @ matrix).movedim(-1, 1).clamp(0, 1)


@torch.no_grad()
def _fit(model: Any) -> Float[Tensor, "channels_and_one rgb"]:
    factor = model.scale_factor
    colours = torch.rand(PICTURES, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    pictures = F.interpolate(colours, size=(SIDE * factor, SIDE * factor))
    posterior = model.posterior(model.pixels(pictures))
    latents = posterior.scaled(posterior.mean)
    if latents.ndim == 5:  # the autoencoder of a video takes a picture for its first frame
        latents = latents[:, :, 0]
    targets = F.interpolate(colours, size=latents.shape[-2:]).movedim(1, -1)
    # LAPACK's last digits depend on the memory alignment of its arguments; rounded from double precision, they do not.
    places, colours_there = (values.flatten(0, 2).cpu().double() for values in (_with_one(latents), targets))
    matrix: Tensor = torch.linalg.lstsq(places, colours_there).solution.float()
    return matrix


def _with_one(
    latents: Shaped[Tensor, "images channels *frames h w"],
) -> Float[Tensor, "images *frames h w channels_and_one"]:
    return F.pad(latents.float().movedim(1, -1), (0, 1), value=1.0)
