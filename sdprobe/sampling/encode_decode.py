"""`encode`, `decode`, `psnr`, `sizes`: images to latents and back, and the loss of quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from sdprobe.model.base import Model
from sdprobe.model.fill_settings import Seed
from sdprobe.model.loading import load
from sdprobe.model.pictures.autoencoder import Posterior
from sdprobe.model.seeds import noise_like
from sdprobe.plot.figures import HEAT, INCH

SIGNED = "PuOr"  # brown below zero, purple above; distinct with any colour vision


@dataclass(frozen=True)
class Sizes:
    """The sizes of an image, of its latents, and of the decoded image.

    >>> Sizes(picture=(300, 300), latents=(4, 37, 37), decoded=(296, 296)).compression
    48.0

    Attributes:
        picture: ``(height, width)`` of the image given, in px.
        latents: ``(channels, h, w)``.
        decoded: ``(height, width)`` of the decoded image, in px.
    """

    picture: tuple[int, int]
    latents: tuple[int, int, int]
    decoded: tuple[int, int]

    @property
    def compression(self) -> float:
        """How many numbers of the decoded image there are per number of the latents."""
        channels, h, w = self.latents
        return 3 * self.decoded[0] * self.decoded[1] / (channels * h * w)

    def __str__(self) -> str:
        picture, latents, decoded = ("×".join(map(str, size)) for size in (self.picture, self.latents, self.decoded))
        return f"{picture} px → {latents} latents → {decoded} px, {self.compression:g} numbers in one"

    __repr__ = __str__


def sizes(model: Model | Any, height: int, width: int) -> Sizes:
    """Return the size of the latents and of the decoded image for an image of any size.

    The autoencoder rounds the sides down to a multiple of its factor, which is 8 in Stable Diffusion
    (300 px → 37 latents → 296 px) and 4 in the embedded model.

    >>> import sdprobe
    >>> sdprobe.sizes(sdprobe.load(), 301, 64)
    301×64 px → 4×75×16 latents → 300×64 px, 12 numbers in one

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        height: pixels, at least the factor.
        width: pixels, at least the factor.

    Raises:
        ValueError: for a side shorter than the factor.
    """
    own = load(model)
    factor = own.scale_factor
    if min(height, width) < factor:
        raise ValueError(f"a picture of {height}×{width} px is too small: each side is {factor} px or more")
    h, w = height // factor, width // factor
    return Sizes((height, width), (own.channels, h, w), (h * factor, w * factor))


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """Encoded images: a normal distribution of latents, with mean and standard deviation at every position.

    >>> import torch
    >>> import sdprobe
    >>> encoded = sdprobe.encode(sdprobe.load(), torch.zeros(1, 3, 64, 64))
    >>> encoded.sample(seed=0).shape, bool((encoded.sample(seed=0) == encoded.sample(seed=1)).any())
    (torch.Size([1, 4, 16, 16]), False)

    Attributes:
        pixels: the images as they were encoded, in [0, 1].
        posterior: the autoencoder's result, in its own scale. `mean`, `std` and `sample` are in the denoiser's scale.
    """

    pixels: Float[Tensor, "images 3 height width"]
    posterior: Posterior

    @property
    def mean(self) -> Shaped[Tensor, "images channels *size"]:
        """The means: the latents to use by default."""
        return self.posterior.scaled(self.posterior.mean)

    @property
    def std(self) -> Shaped[Tensor, "images channels *size"]:
        """The standard deviations."""
        return self.posterior.std * self.posterior.scale

    def sample(self, seed: Seed = 0) -> Shaped[Tensor, "images channels *size"]:
        """Draw latents from the distribution: those from which image-to-image starts with this seed.

        Args:
            seed: one number for all images, or one for each.
        """
        drawn = self.posterior.mean + self.posterior.std * noise_like(self.posterior.mean, seed)
        return self.posterior.scaled(drawn)

    def channels(self, image: int = 0) -> Figure:
        """Plot one image and each channel of its latents: means above, standard deviations below."""
        mean, std = (values[image].float().cpu().numpy() for values in (self.mean, self.std))
        figure = Figure(figsize=(INCH * (len(mean) + 1) + 0.9, 2 * INCH + 0.5), layout="constrained")
        axes = figure.subplots(2, len(mean) + 1)
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[0, 0].imshow(np.moveaxis(self.pixels[image].float().cpu().numpy(), 0, -1))
        axes[0, 0].set_title("picture", fontsize=9)
        reach = float(np.abs(mean).max())
        for i in range(len(mean)):
            means = axes[0, i + 1].imshow(mean[i], cmap=SIGNED, vmin=-reach, vmax=reach)
            stds = axes[1, i + 1].imshow(std[i], cmap=HEAT, vmin=0, vmax=float(std.max()))
            axes[0, i + 1].set_title(f"channel {i}", fontsize=9)
        figure.colorbar(means, ax=axes[0, :], label="mean", aspect=12)
        figure.colorbar(stds, ax=axes[1, :], label="standard deviation", aspect=12)
        return figure

    def __repr__(self) -> str:
        count, latents = len(self.pixels), "×".join(map(str, self.posterior.mean.shape[1:]))
        height, width = self.pixels.shape[-2:]
        return f"Encoded({count} picture{'s' * (count != 1)} of {height}×{width} px as {latents} latents)"


def encode(
    model: Model | Any,
    images: Image | Sequence[Image] | NDArray[np.uint8] | Tensor,
    *,
    height: int | None = None,
    width: int | None = None,
) -> Encoded:
    """Encode images: return the distribution of their latents.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> picture = sdprobe.sample(model, "a red circle", steps=5, seed=0, progress=False).images[0]
    >>> encoded = sdprobe.encode(model, picture)
    >>> encoded, encoded.mean.shape, bool((encoded.std > 0).all())
    (Encoded(1 picture of 64×64 px as 4×16×16 latents), torch.Size([1, 4, 16, 16]), True)
    >>> back = sdprobe.decode(model, encoded.mean)
    >>> bool(sdprobe.psnr(back, encoded.pixels) > 30)  # dB
    True

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        images: an image, or several of one size: PIL, arrays ``[height, width, 3]`` of bytes, or a tensor
            ``[images, 3, height, width]`` in [0, 1].
        height: px to resize the images to; None keeps their height. Sides that are not a multiple of the autoencoder's
            factor are resized to the next smaller multiple (see `sdprobe.sizes`).
        width: the same for the width.

    Raises:
        ValueError: for something that is not an image, for images of different sizes, and for an image that is too
            small.

    Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1.
    """
    own = load(model)
    with own.lock(), torch.inference_mode(False), torch.no_grad():
        pixels = own.pixels(images, height, width)
        return Encoded((pixels.float() / 2 + 0.5).clamp(0, 1), own.posterior(pixels))


def decode(
    model: Model | Any, latents: Shaped[Tensor, "images channels *size"]
) -> Float[Tensor, "images 3 height width"]:
    """Decode latents to images in [0, 1], as at the end of a run. `model.pictures` makes PIL images of the result.

    Large latents are decoded in overlapping tiles if the pipeline is set to do so (``model.pipe.vae.enable_tiling()``).

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> run = sdprobe.sample(model, "a red circle", steps=5, seed=0, progress=False)
    >>> pixels = sdprobe.decode(model, run.latents)
    >>> pixels.shape, model.pictures(pixels)[0] == run.images[0]
    (torch.Size([1, 3, 64, 64]), True)

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        latents: ``[images, channels, h, w]`` in the denoiser's scale, as `Encoded` and `Run` have them.

    Raises:
        ValueError: for latents of another shape.
    """
    own = load(model)
    channels = own.pipe.vae.config.latent_channels
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(f"latents are [images, {channels}, h, w], not {tuple(latents.shape)}")
    with own.lock(), torch.inference_mode(False), torch.no_grad():
        return own.decode(latents.to(own.device, own.pipe.vae.dtype), None)


def psnr(a: Any, b: Any) -> Float[Tensor, " images"]:
    """Return the peak signal-to-noise ratio of image pairs, in dB, one number per pair; infinite if they are equal.

    >>> import torch
    >>> import sdprobe
    >>> grey = torch.full((1, 3, 8, 8), 0.5)
    >>> round(float(sdprobe.psnr(grey, grey + 0.1)), 2)
    20.0

    Args:
        a: tensors ``[images, 3, height, width]`` in [0, 1], or PIL images.
        b: as many images of the same size.

    Raises:
        ValueError: for different numbers or sizes of images.

    Source: 10 log10(1 / mean squared error), for values between 0 and 1.
    """
    first, second = _floats(a), _floats(b)
    if first.shape != second.shape:
        raise ValueError(f"pictures to compare have one shape, not {tuple(first.shape)} and {tuple(second.shape)}")
    return -10 * (first - second).square().mean((1, 2, 3)).log10()


def _floats(pictures: Any) -> Float[Tensor, "images 3 height width"]:
    if isinstance(pictures, Tensor):
        return pictures.double().cpu().reshape(-1, *pictures.shape[-3:])
    found = [pictures] if isinstance(pictures, Image) else list(pictures)
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.float64) / 255 for picture in found]
    return torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays])
