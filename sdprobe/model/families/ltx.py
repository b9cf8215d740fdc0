"""LTX-Video: T5, a transformer of video tokens with cross-attention, flow matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sdprobe.core.run import Row, Settings
from sdprobe.model.families.video import VideoModel
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments


class LTX(VideoModel):
    """LTX-Video.

    The pipeline holds its latents packed, one token for each position of each frame, and normalised; hooks get them as
    ``[videos, channels, frames, h, w]``. Cross-attention (``attn2``) does not look at padding of the prompt. A decoder
    that is conditioned on a timestep gets the pipeline's default, and latents with as much noise as that says.
    """

    pipelines = ("LTXPipeline",)
    hides_padding = True
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (2,)})

    @property
    def scale_factor(self) -> int:
        return int(self.pipe.vae_spatial_compression_ratio)

    @property
    def temporal_factor(self) -> int:
        return int(self.pipe.vae_temporal_compression_ratio)

    @property
    def multiple(self) -> int:
        return math.lcm(32, super().multiple)  # the pipeline refuses other sizes

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        embeds, mask, _, _ = self.pipe.encode_prompt(texts, do_classifier_free_guidance=False, device=self.device)
        return {EMBEDS: embeds, "encoder_attention_mask": mask}

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        self.set_sigmas(scheduler, settings, device, mu=self.shift(scheduler, settings, 1.15))

    def prepared(self, settings: Settings, generator: Any, latents: Tensor | None) -> Any:
        if latents is not None:
            return latents.to(self.device, torch.float32)
        return self.unpacked(super().prepared(settings, generator, None), *self.latent_shape(settings))

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        frames, h, w = rows.shape[2:]
        shown = self.packed(rows)
        if conditioning.groups > 1:
            # As what the pipeline repeats; in half precision another layout changes the last bits.
            shown = shown.contiguous()
        in_time = self.temporal_factor / self.argument("frame_rate")
        with self.pipe.transformer.cache_context("cond_uncond"):
            output: Tensor = self.pipe.transformer(
                hidden_states=shown.to(conditioning.arguments[EMBEDS].dtype),
                timestep=timestep.expand(len(rows)),
                **conditioning.arguments,
                num_frames=frames,
                height=h,
                width=w,
                rope_interpolation_scale=(in_time, self.scale_factor, self.scale_factor),
                return_dict=False,
            )[0]
        return self.unpacked(output, frames, h, w)

    def guide(
        self, output: Shaped[Tensor, "rows channels *size"], rows: Sequence[Row], scale: float
    ) -> Shaped[Tensor, "images channels *size"]:
        return super().guide(output.float(), rows, scale)

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "videos frames 3 height width"]:
        vae, x, timestep = self.pipe.vae, self.unscaled(x).to(self.dtype), None
        if vae.config.timestep_conditioning:
            noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            told, amount = self.argument("decode_timestep"), self.argument("decode_noise_scale")
            timestep = torch.full([len(x)], told, device=x.device, dtype=x.dtype)
            share = told if amount is None else amount
            x = (1 - share) * x + share * noise
        return self.finished(vae.decode(x.to(vae.dtype), timestep, return_dict=False)[0])

    def unscaled(self, x: Latents) -> Latents:
        vae = self.pipe.vae
        own: Tensor = self.pipe._denormalize_latents(x, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        return own

    def attention_kind(self, module: nn.Module) -> str | None:
        if super().attention_kind(module) is None:
            return None
        # A module's own attributes do not tell: text and video are of one width.
        return "cross" if any(block.attn2 is module for block in self.denoiser.transformer_blocks) else "self"

    def packed(self, latents: Latents) -> Shaped[Tensor, "rows places packed"]:
        """Return latents as the pipeline packs them: one token for each position."""
        packed: Tensor = self.pipe._pack_latents(latents, self.patch, self.temporal_patch)
        return packed

    def unpacked(self, packed: Shaped[Tensor, "rows places packed"], *size: int) -> Latents:
        """Return packed latents as ``[videos, channels, frames, h, w]``."""
        frames, h, w = size
        grid = (frames // self.temporal_patch, h // self.patch, w // self.patch)
        latents: Tensor = self.pipe._unpack_latents(packed, *grid, self.patch, self.temporal_patch)
        return latents
