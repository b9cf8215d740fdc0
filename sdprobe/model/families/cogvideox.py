"""CogVideoX: T5, a transformer of video tokens with joint attention, its own forms of DDIM and DPM-Solver++."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sdprobe.core.run import Row, Settings
from sdprobe.core.step import Step
from sdprobe.model.families.video import VideoModel
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments


class CogVideoX(VideoModel):
    """CogVideoX (2B, 5B) and CogVideoX 1.5.

    The pipeline holds its latents as ``[videos, frames, channels, h, w]``. In joint attention the text comes before the
    video; padding of the prompt is seen as other tokens are. The pipeline makes one video of each prompt, and `sample`
    as many as asked for. Of an odd number of latent frames the autoencoder makes one frame of the first, and several of
    each other; of an even number equally many of each, so that a video can have more frames than were asked for. In 1.5
    two frames of the latents are one token: an odd number of them gets one more before the first, which is not decoded
    (but a loss on the decoded video is given what it would be).

    Image to video (with `attach`): the denoiser is shown the picture's latents in further channels, which are no part
    of the latents that hooks get.
    """

    pipelines = ("CogVideoXPipeline",)
    variants = ("CogVideoXImageToVideoPipeline", "CogVideoXVideoToVideoPipeline", "CogVideoXFunControlPipeline")
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (1,)})
    text_first = True
    one_of_each = True
    rounds_latents = True
    _rotary: tuple[Any, Any] | None = None

    @property
    def channels(self) -> int:
        return int(self.denoiser.config.out_channels)

    @property
    def default_frames(self) -> int | None:
        return int(self.denoiser.config.sample_frames)

    def default_size(self) -> tuple[int, int]:
        config, factor = self.denoiser.config, self.scale_factor
        return int(config.sample_height) * factor, int(config.sample_width) * factor

    @property
    def multiple(self) -> int:
        return math.lcm(8, super().multiple)  # the pipeline refuses other sizes

    def latent_frames(self, settings: Settings) -> int:
        return -(-super().latent_frames(settings) // self.temporal_patch) * self.temporal_patch

    def frames_decoded(self, latent_frames: int) -> int:
        return super().frames_decoded(latent_frames) if latent_frames % 2 else latent_frames * self.temporal_factor

    @property
    def text_streams(self) -> tuple[str, ...]:
        # After the last block nothing reads the text.
        return tuple(name for name, part in self.modules.items() if self.attention_kind(part))[:-1]

    def attention_kind(self, module: nn.Module) -> str | None:
        return "joint" if super().attention_kind(module) else None

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        return {EMBEDS: self.pipe.encode_prompt(texts, None, False, device=self.device)[0]}

    def prepared(self, settings: Settings, generator: Any, latents: Tensor | None) -> Any:
        frames = (self.latent_frames(settings) - 1) * self.temporal_factor + 1
        size = (frames, settings.height, settings.width)
        given = None if latents is None else self.packed(latents)
        made = self.pipe.prepare_latents(
            settings.images, self.channels, *size, self.dtype, self.device, generator, given
        )
        return self.unpacked(made)

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        with self.pipe.transformer.cache_context("cond_uncond"):
            output: Tensor = self.pipe.transformer(
                hidden_states=self.packed(rows),
                timestep=timestep.expand(len(rows)),
                **conditioning.arguments,
                image_rotary_emb=self.rotary_of(rows),
                return_dict=False,
            )[0]
        return self.unpacked(output)

    def rotary_of(self, rows: Latents) -> Any:
        """Return the rotary embeddings of the video's tokens; None for a network that has sines instead."""
        if not self.denoiser.config.use_rotary_positional_embeddings:
            return None
        asked = (rows.shape[2:], rows.device)
        if self._rotary is None or self._rotary[0] != asked:
            frames, h, w = rows.shape[2:]
            height, width = (side * self.scale_factor for side in (h, w))
            self._rotary = (
                asked,
                self.pipe._prepare_rotary_positional_embeddings(height, width, frames, rows.device),
            )
        return self._rotary[1]

    def guide(
        self, output: Shaped[Tensor, "rows channels *size"], rows: Sequence[Row], scale: float
    ) -> Shaped[Tensor, "images channels *size"]:
        return super().guide(output.float(), rows, scale)

    def advance(self, noise_pred: Latents, step: Step, x: Latents, options: Mapping[str, Any]) -> Latents:
        # Noise is drawn in the pipeline's form of latents.
        scheduler, timestep, output, own = self.pipe.scheduler, self.timestep(step), *map(self.packed, (noise_pred, x))
        if not isinstance(scheduler, CogVideoXDPMScheduler):
            made = scheduler.step(output, timestep, own, **options, return_dict=False)
        else:
            # It is told of the step before by its caller, and keeps that here as other schedulers of several steps do.
            last = getattr(scheduler, "last_x0", None)
            at = self.first + step.index
            before = scheduler.timesteps[at - 1] if at > 0 else None
            made = scheduler.step(output, last, timestep, before, own, **options, return_dict=False)
            scheduler.last_x0 = made[1]
        return self.unpacked(made[0].to(self.dtype))

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "videos frames 3 height width"]:
        more = x.shape[2] - super().latent_frames(self.settings)
        return self.finished(self.pipe.vae.decode(self.unscaled(x[:, :, more:])).sample)

    def unscaled(self, x: Latents) -> Latents:
        # Laid out in memory as in the pipeline: other layouts are decoded in another order of sums.
        own: Tensor = 1 / self.pipe.vae_scaling_factor_image * self.packed(x).transpose(1, 2)
        return own

    def refuse_picture_prompt(self) -> None:
        if self.denoiser.config.in_channels != self.channels:
            raise ValueError(
                "this denoiser is shown a picture beside the latents, which sample cannot give it: attach to a "
                "CogVideoXImageToVideoPipeline of it (sdprobe.attach)"
            )

    def refuse_beside(self) -> None:
        if not self.denoiser.config.use_rotary_positional_embeddings:
            raise ValueError(
                f"this {type(self).__name__} has a place for each token of {self.length('text_encoder')}, and none for "
                f"others: further tokens cannot be put beside the prompt"
            )

    def rows_of(self, shown: Any) -> Shaped[Tensor, "rows frames channels h w"]:
        rows: Tensor = shown[:, :, : self.channels]
        return rows

    def shown_as(self, rows: Shaped[Tensor, "rows frames channels h w"], like: Any) -> Any:
        return torch.cat([rows.to(like.dtype), like[:, :, self.channels :]], dim=2)

    def packed(self, latents: Latents) -> Shaped[Tensor, "rows frames channels h w"]:
        """Return latents as the pipeline holds them, with frames before channels."""
        return latents.transpose(1, 2).contiguous()

    def unpacked(self, packed: Shaped[Tensor, "rows frames channels h w"], *size: int) -> Latents:
        """Return the pipeline's latents as ``[videos, channels, frames, h, w]``."""
        return packed.transpose(1, 2).contiguous()
