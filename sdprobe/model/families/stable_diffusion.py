"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net, an autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from sdprobe.model.families.unet import UNetModel
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, DenoiserArguments


class StableDiffusion(UNetModel):
    """Stable Diffusion 1.x and 2.x, with epsilon and v-prediction."""

    pipelines = ("StableDiffusionPipeline",)
    variants: ClassVar[tuple[str, ...]] = (
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionAdapterPipeline",
        "StableDiffusionPAGPipeline",
        "StableDiffusionPAGImg2ImgPipeline",
        "StableDiffusionPAGInpaintPipeline",
        "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionControlNetPAGInpaintPipeline",
    )
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (1,)})
    img2img = StableDiffusionImg2ImgPipeline
    img2img_options = MappingProxyType({"requires_safety_checker": False})

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        return {EMBEDS: self.pipe.encode_prompt(texts, self.device, 1, False)[0]}

    @torch.no_grad()
    def latents_of(self, pictures: Sequence[Image]) -> Float[Tensor, "images channels *size"]:
        """Return images as clean latents x0, resized to the model's own size with a centre crop.

        These are the means of the autoencoder's distribution; its variance is far below that of the noise in training.
        """
        height, width = self.default_size()
        vae, processor = self.pipe.vae, self.pipe.image_processor
        found = []
        for picture in pictures:
            pixels = processor.preprocess(picture, height, width, resize_mode="crop").to(self.device, vae.dtype)
            posterior = self.posterior(pixels)
            found.append(posterior.scaled(posterior.mean.float()))
        return torch.cat(found)

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        vae = self.pipe.vae
        image = vae.decode(x / vae.config.scaling_factor, return_dict=False, generator=generator)[0]
        image, flagged = self.pipe.run_safety_checker(image, self.device, image.dtype)
        kept = [True] * len(image) if flagged is None else [not flag for flag in flagged]
        decoded: Tensor = self.pipe.image_processor.postprocess(image, output_type="pt", do_denormalize=kept)
        return decoded
