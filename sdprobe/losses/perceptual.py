"""Losses on the features of a network: CLIP, a classifier, the autoencoder's encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.losses.loss import Loss, PerImage, Pictures, as_tensor, made_again, said
from sdprobe.model.clip_model import Clip, given_or_embedded
from sdprobe.model.loading import load

Features = Callable[[Pictures], Sequence[Tensor]]


@made_again
def clip_text(text: str, clip: Clip | str | Path | None = None) -> Loss:
    """1 - the cosine between an image and a text in CLIP's space.

    >>> import torch
    >>> from sdprobe.shapes import Object, render
    >>> red = torch.tensor(render([Object("circle", "red", (32, 32), 15)]).image).permute(2, 0, 1)[None] / 255
    >>> bool(clip_text("a red circle")(red) < clip_text("a blue circle")(red))
    True

    Args:
        text: the description that the image should match.
        clip: the result of `sdprobe.clip.load`, or anything that it takes; None for the embedded model's CLIP.

    Source: Nichol et al. 2022, "GLIDE", section 2.4.
    """
    own = given_or_embedded(clip)
    with torch.no_grad():
        wanted = own.text_features(text)[0]
    return Loss(said("clip_text", [text]), lambda pictures: 1 - own.image_features(pictures) @ wanted)


@made_again
def clip_image(picture: Any, clip: Clip | str | Path | None = None) -> Loss:
    """1 - the cosine between an image and a given one in CLIP's space.

    >>> import torch
    >>> picture = torch.rand(1, 3, 64, 64)
    >>> bool(clip_image(picture)(picture).abs() < 1e-6)
    True

    Args:
        picture: PIL, a uint8 array, or a tensor ``[1, 3, H, W]`` in [0, 1].
        clip: as for `clip_text`.

    Source: Liu et al. 2023, "More Control for Free! Image Synthesis with Semantic Diffusion Guidance", section 3.2.
    """
    own = given_or_embedded(clip)
    with torch.no_grad():
        wanted = own.image_features(as_tensor(picture))[0]
    return Loss(
        said("clip_image", [type(picture).__name__]), lambda pictures: 1 - own.image_features(pictures) @ wanted
    )


@made_again
def log_probability(classifier: Callable[[Pictures], Float[Tensor, "images classes"]], label: int) -> Loss:
    """- log p(label | image), for any classifier.

    >>> import torch
    >>> log_probability(lambda pictures: torch.zeros(len(pictures), 4), label=2)(torch.zeros(1, 3, 8, 8)).exp()
    tensor([4.])

    Args:
        classifier: returns logits ``[images, classes]`` of images.
        label: the number of the class, from 0.

    Source: Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", section 4.
    """
    return Loss(said("log_probability", [label]), lambda pictures: -classifier(pictures).log_softmax(-1)[:, label])


def encoder_features(model: Any) -> Features:
    """Return a function that gives the features of the autoencoder's encoder: after its first layer and each block.

    >>> import torch
    >>> import sdprobe
    >>> features = encoder_features(sdprobe.load())
    >>> [tuple(own.shape[1:]) for own in features(torch.zeros(1, 3, 64, 64))]
    [(16, 64, 64), (16, 32, 32), (24, 16, 16), (48, 16, 16)]

    Args:
        model: the result of `sdprobe.load`, or a live pipeline, with the usual autoencoder (`AutoencoderKL`).
    """
    return partial(_after_each_block, load(model).pipe.vae.encoder)


@made_again
def style(picture: Any, features: Features) -> Loss:
    """The mean squared difference of the Gram matrices of features: the correlations of channels over all positions.

    >>> import torch
    >>> import sdprobe
    >>> picture, features = torch.rand(1, 3, 64, 64), encoder_features(sdprobe.load())
    >>> bool(style(picture, features)(picture) == 0)
    True

    Args:
        picture: an image with the style; as for `clip_image`.
        features: returns feature maps ``[images, channels, h, w]`` of images, as `encoder_features` does.

    Source: Gatys et al. 2016, "Image Style Transfer Using Convolutional Neural Networks", eq. 3 to 5, with features
    normalized to unit mean square (over the given image), so that every layer has the same weight.
    """
    with torch.no_grad():
        given = [own.float() for own in features(as_tensor(picture))]
    sizes = [own.square().mean() for own in given]
    wanted = [_gram(own) / size for own, size in zip(given, sizes, strict=True)]

    def of(pictures: Pictures) -> PerImage:
        grams = [_gram(own.float()) / size for own, size in zip(features(pictures), sizes, strict=True)]
        apart = [(a - b).square().flatten(1).mean(1) for a, b in zip(grams, wanted, strict=True)]
        return torch.stack(apart).mean(0)

    return Loss(said("style", [type(picture).__name__]), of)


@made_again
def perceptual(picture: Any, features: Features) -> Loss:
    """The distance to an image in the features of a network; less sensitive to exact pixels than `match`.

    >>> import torch
    >>> import sdprobe
    >>> picture, features = torch.rand(1, 3, 64, 64), encoder_features(sdprobe.load())
    >>> bool(perceptual(picture, features)(picture) == 0)
    True

    Args:
        picture: as for `clip_image`, of the run's size.
        features: as for `style`.

    Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features", eq. 1, without learned weights.
    """
    with torch.no_grad():
        wanted = [_unit(own.float()) for own in features(as_tensor(picture))]

    def of(pictures: Pictures) -> PerImage:
        found = [_unit(own.float()) for own in features(pictures)]
        apart = [(a - b).square().sum(1).flatten(1).mean(1) for a, b in zip(found, wanted, strict=True)]
        return torch.stack(apart).mean(0)

    return Loss(said("perceptual", [type(picture).__name__]), of)


def _after_each_block(encoder: Any, pictures: Pictures) -> list[Tensor]:
    found = [encoder.conv_in(2 * pictures.to(encoder.conv_in.weight.dtype) - 1)]
    for block in encoder.down_blocks:
        found.append(block(found[-1]))
    return found


def _gram(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return flat @ flat.mT / flat.shape[-1]


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()
