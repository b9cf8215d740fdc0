"""Stable Diffusion 3 and 3.5: three text encoders, a transformer with joint attention, flow matching."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from diffusers import StableDiffusion3Img2ImgPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import retrieve_timesteps
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Settings
from sdprobe.model.families.transformer import TransformerModel
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments


class StableDiffusion3(TransformerModel):
    """Stable Diffusion 3 and 3.5.

    The two CLIP encoders share the first positions of the prompt embeddings; T5's tokens follow. A pipeline without T5
    has zeros there, which belong to no word. In joint attention the image comes before the text.
    """

    pipelines = ("StableDiffusion3Pipeline",)
    variants = (
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
        "StableDiffusion3PAGPipeline",
        "StableDiffusion3PAGImg2ImgPipeline",
    )
    encoded_at = MappingProxyType({"cond": (0, 2), "uncond": (1, 3)})
    token_axis = (("text_encoder", "text_encoder_2"), ("text_encoder_3",))
    pooling = ("text_encoder", "text_encoder_2")
    img2img = StableDiffusion3Img2ImgPipeline

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            texts, None, None, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {EMBEDS: embeds, "pooled_projections": pooled}

    def text_tokens(self, prompt: Prompt) -> int:
        zeros = 0 if self.pipe.text_encoder_3 is not None else int(self.argument("max_sequence_length"))
        return super().text_tokens(prompt) + zeros

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        moved = scheduler.config.get("use_dynamic_shifting", None)
        shift = {"mu": self.shift(scheduler, settings, 1.16)} if moved else {}
        retrieve_timesteps(scheduler, settings.steps, device, **shift)

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        output: Tensor = self.pipe.transformer(
            hidden_states=rows, timestep=timestep.expand(len(rows)), **conditioning.arguments, return_dict=False
        )[0]
        return output
