"""`VideoModel`: base class of the families that make videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from sdprobe.core.run import Settings
from sdprobe.model.denoiser.token_layout import Grid
from sdprobe.model.families.transformer import TransformerModel
from sdprobe.model.pictures.autoencoder import Posterior, posterior_of


class VideoModel(TransformerModel):
    """A family that makes videos with a transformer.

    Latents are ``[videos, channels, frames, h, w]``; these frames are fewer than those of the video, as the autoencoder
    joins several to one. Attention sites have grids ``(frames, h, w)``, frame by frame. A decoded video is ``[videos,
    frames, 3, height, width]`` in [0, 1].
    """

    @property
    def scale_factor(self) -> int:
        return int(self.pipe.vae_scale_factor_spatial)

    @property
    def temporal_factor(self) -> int:
        return int(self.pipe.vae_scale_factor_temporal)

    @property
    def temporal_patch(self) -> int:
        """How many frames of the latents are one token."""
        return int(getattr(self.denoiser.config, "patch_size_t", None) or 1)

    @property
    def processor(self) -> Any:
        return self.pipe.video_processor

    @property
    def default_frames(self) -> int | None:
        try:
            return int(self.default("num_frames"))
        except KeyError:  # a video to start from has its own, and the latents will tell
            return 1

    def default_size(self) -> tuple[int, int]:
        return int(self.default("height")), int(self.default("width"))

    def latent_frames(self, settings: Settings) -> int:
        """Return how many frames the latents have."""
        frames = self.default_frames if settings.frames is None else settings.frames
        return (int(frames or 1) - 1) // self.temporal_factor + 1

    def frames_decoded(self, latent_frames: int) -> int:
        """Return how many frames the autoencoder makes of so many of the latents: the first is one frame of its own."""
        return (latent_frames - 1) * self.temporal_factor + 1

    def frames_made(self, asked: int | None) -> int | None:
        return None if asked is None else self.frames_decoded((asked - 1) // self.temporal_factor + 1)

    def latent_shape(self, settings: Settings) -> tuple[int, ...]:
        return (self.latent_frames(settings), *self.latent_size(settings))

    def settings_of_size(self, settings: Settings, *size: int) -> Settings:
        frames, *others = size
        return replace(super().settings_of_size(settings, *others), frames=self.frames_decoded(frames))

    def grids(self, settings: Settings) -> dict[int, Grid]:
        frames, h, w = self.latent_shape(settings)
        grid = (frames // self.temporal_patch, h // self.patch, w // self.patch)
        return {math.prod(grid): grid}

    def prepared(self, settings: Settings, generator: Any, latents: Tensor | None) -> Any:
        frames = self.default_frames if settings.frames is None else settings.frames
        size = (settings.height, settings.width, frames)
        given = (settings.images, self.channels, *size, torch.float32, self.device, generator, latents)
        return self.pipe.prepare_latents(*given)

    def posterior(self, pixels: Float[Tensor, "images 3 height width"]) -> Posterior:
        """Return the distribution of the latents of pictures, each as a video of one frame."""
        return posterior_of(self.pipe.vae, pixels[:, :, None])

    def finished(self, decoded: Tensor) -> Float[Tensor, "videos frames 3 height width"]:
        return torch.as_tensor(self.processor.postprocess_video(decoded, output_type="pt"))

    def pictures(self, image: Float[Tensor, "videos frames 3 height width"]) -> list[Image]:
        return super().pictures(image.flatten(0, 1))

    def returned(self, pixels: Tensor, pictures: Sequence[Image], output_type: str) -> Any:
        if output_type == "np":
            return pixels.cpu().permute(0, 1, 3, 4, 2).float().numpy()
        each = pixels.shape[1]
        nested = [list(pictures[first : first + each]) for first in range(0, len(pictures), each)]
        return pixels if output_type == "pt" else nested
