"""Stable Diffusion XL: two CLIP text encoders, a pooled vector and image sizes as further inputs, a U-Net."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.run import Settings
from sdprobe.model.families.unet import UNetModel
from sdprobe.model.pictures.autoencoder import single_precision
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments

ADDED = ("text_embeds", "time_ids")


class StableDiffusionXL(UNetModel):
    """Stable Diffusion XL, the base model.

    Both encoders have the same token positions; ``prompt_embeds`` has their states joined along the width, those of the
    first encoder first.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    variants: ClassVar[tuple[str, ...]] = (
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        "StableDiffusionXLAdapterPipeline",
        "StableDiffusionXLPAGPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline",
        "StableDiffusionXLPAGInpaintPipeline",
        "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
    )
    encoded_at = MappingProxyType({"cond": (0, 2), "uncond": (1, 3)})
    token_axis = (("text_encoder", "text_encoder_2"),)
    pooling = ("text_encoder_2",)
    img2img = StableDiffusionXLImg2ImgPipeline

    @property
    def zeroes_unprompted(self) -> bool:
        return bool(self.pipe.config.force_zeros_for_empty_prompt)

    @property
    def sets_begin_index(self) -> bool:
        return True

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        embeds, _, pooled, _ = self.pipe.encode_prompt(texts, None, self.device, 1, False)
        return {EMBEDS: embeds, "text_embeds": pooled}

    def besides(self, settings: Settings) -> DenoiserArguments:
        size = (settings.height, settings.width)
        encoder = self.pipe.text_encoder_2
        ids = self.pipe._get_add_time_ids(size, (0, 0), size, self.dtype, encoder.config.projection_dim)
        return {**super().besides(settings), "time_ids": ids.to(self.device).repeat(settings.images, 1)}

    def arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        own = {name: tensor for name, tensor in conditioning.arguments.items() if name not in ADDED}
        return {**own, "added_cond_kwargs": {name: conditioning.arguments[name] for name in ADDED}}

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        vae = self.pipe.vae
        with single_precision(vae):
            x = x.to(vae.dtype)
            mean, std = (self._per_channel(name, x) for name in ("latents_mean", "latents_std"))
            unscaled = x / vae.config.scaling_factor
            if mean is not None and std is not None:
                unscaled = x * std / vae.config.scaling_factor + mean
            image = vae.decode(unscaled, return_dict=False)[0]
        if self.pipe.watermark is not None:
            image = self.pipe.watermark.apply_watermark(image)
        return self.finished(image)

    def _per_channel(self, name: str, x: Tensor) -> Tensor | None:
        found = getattr(self.pipe.vae.config, name, None)
        return None if found is None else torch.tensor(found).view(1, -1, 1, 1).to(x)
