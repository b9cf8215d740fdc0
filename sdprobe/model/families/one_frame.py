"""`OneFrame`: base class of the families whose autoencoder is one of videos, used for videos of one frame."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.model.families.packed_tokens import PackedTokens
from sdprobe.model.pictures.autoencoder import Posterior, posterior_of
from sdprobe.model.pipeline_parts import Latents


class OneFrame(PackedTokens):
    """A family of images with an autoencoder of videos, which has a mean and a spread for each channel of latents."""

    def statistics(self, like: Tensor) -> tuple[Shaped[Tensor, "channels 1 1"], Shaped[Tensor, "channels 1 1"]]:
        """Return the mean and the standard deviation of the autoencoder's latents, for each channel."""
        config = self.pipe.vae.config
        mean, std = (torch.tensor(own).view(-1, 1, 1).to(like) for own in (config.latents_mean, config.latents_std))
        return mean, std

    def unscaled(self, x: Latents) -> Shaped[Tensor, "images channels 1 h w"]:
        mean, std = self.statistics(x)
        return (x / (1.0 / std) + mean)[:, :, None]

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        vae = self.pipe.vae
        return self.finished(vae.decode(self.unscaled(x.to(vae.dtype)), return_dict=False)[0][:, :, 0])

    def posterior(self, pixels: Float[Tensor, "images 3 height width"]) -> Posterior:
        own = posterior_of(self.pipe.vae, pixels[:, :, None])
        mean, std = self.statistics(pixels)
        return Posterior(own.mean[:, :, 0], own.std[:, :, 0], 1.0 / std, mean)
