"""`Posterior`: images to the distribution of their latents, with the pipeline's autoencoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor


class Posterior(NamedTuple):
    """The normal distribution q(z | image) in the autoencoder's own scale; the denoiser's is (z - shift) · scale.

    Scale and shift are numbers, or one for each channel.
    """

    mean: Shaped[Tensor, "images channels *size"]
    std: Shaped[Tensor, "images channels *size"]
    scale: float | Shaped[Tensor, "channels ..."]
    shift: float | Shaped[Tensor, "channels ..."]

    def scaled(self, z: Shaped[Tensor, "images channels *size"]) -> Shaped[Tensor, "images channels *size"]:
        """Return latents of the autoencoder in the denoiser's scale."""
        return (z - self.shift) * self.scale


def pixels_of(
    processor: Any, images: Any, height: int | None = None, width: int | None = None
) -> Float[Tensor, "images 3 height width"]:
    """Return images in [-1, 1], resized or at their own size; sides are rounded down to the autoencoder's grid.

    Raises ValueError for something that is not an image, for images of different sizes, and for sides that are too
    small.
    """
    given = _tensor(images) if isinstance(images, Tensor) else pictures_of(images)
    own = given.shape[-2:] if isinstance(given, Tensor) else (given[0].height, given[0].width)
    factor = processor.config.vae_scale_factor
    height, width = own[0] if height is None else height, own[1] if width is None else width
    if min(height, width) < factor:
        raise ValueError(f"a picture of {height}×{width} px is too small: each side is {factor} px or more")
    pixels: Tensor = processor.preprocess(given, height - height % factor, width - width % factor)
    return pixels


def _tensor(images: Tensor) -> Tensor:
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"a tensor of pictures is [images, 3, height, width] of floats, not {tuple(images.shape)}")
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"a tensor of pictures is in [0, 1]; this one goes from {images.min():g} to {images.max():g}")
    return images


def pictures_of(images: Any) -> list[Image.Image]:
    """Return images of any accepted type as PIL, in RGB and of one size. Raises ValueError for anything else."""
    one = isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
    given: Iterable[Any] = [images] if one else images if isinstance(images, Iterable) else ()
    found = [Image.fromarray(own) if _is_array(own) else own for own in given]
    if not found or not all(isinstance(picture, Image.Image) for picture in found):
        raise ValueError(
            f"pictures are PIL images, arrays [height, width, 3] of bytes, a list of them, or a tensor in [0, 1]; "
            f"not {type(images).__name__}"
        )
    if len({picture.size for picture in found}) > 1:
        sizes = ", ".join(f"{picture.height}×{picture.width}" for picture in found)
        raise ValueError(f"pictures that are encoded together have one size; these have {sizes}")
    return [picture.convert("RGB") for picture in found]


def _is_array(own: Any) -> bool:
    return isinstance(own, np.ndarray) and own.dtype == np.uint8 and own.ndim == 3 and own.shape[2] == 3


def posterior_of(vae: Any, pixels: Float[Tensor, "images 3 height width"]) -> Posterior:
    """Return the autoencoder's distribution of latents for images in [-1, 1]."""
    found = vae.encode(pixels)
    if hasattr(found, "latent_dist"):
        mean, std = found.latent_dist.mean, found.latent_dist.std
    else:  # a distilled autoencoder, and a deep-compression autoencoder, return latents only
        mean = found.latents if hasattr(found, "latents") else found.latent
        std = torch.zeros_like(mean)
    scale, shift = getattr(vae.config, "scaling_factor", 1.0), getattr(vae.config, "shift_factor", None) or 0.0
    return Posterior(mean, std, scale, shift)


def picture_of(
    vae: Any, unscaled: Shaped[Tensor, "images channels *size"], videos: bool = False
) -> Float[Tensor, "images *frames 3 height width"]:
    """Decode latents in the autoencoder's own scale to images in [0, 1], or to frames of videos, differentiably.

    A pixel that was clipped to 0 or 1 has a gradient too, as otherwise it could not change again.
    """
    decoded: Tensor = vae.decode(unscaled, return_dict=False)[0]
    if decoded.ndim == 5:  # some autoencoders take a picture for a video of one frame
        decoded = decoded.movedim(1, 2) if videos else decoded[:, :, 0]
    pixels = decoded.float() / 2 + 0.5
    return pixels.detach().clamp(0, 1) + (pixels - pixels.detach())


@contextmanager
def single_precision(vae: Any) -> Iterator[None]:
    """While this is open, an autoencoder that overflows in half precision computes in single precision."""
    if not (vae.dtype == torch.float16 and vae.config.force_upcast):
        yield
        return
    vae.to(dtype=torch.float32)
    try:
        yield
    finally:
        vae.to(dtype=torch.float16)
