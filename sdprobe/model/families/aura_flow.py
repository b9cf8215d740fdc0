"""AuraFlow: T5, a transformer with joint attention and registers, flow matching."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from diffusers.pipelines.aura_flow.pipeline_aura_flow import retrieve_timesteps
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sdprobe.core.run import Settings
from sdprobe.model.families.transformer import TransformerModel
from sdprobe.model.pictures.autoencoder import single_precision
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments


class AuraFlow(TransformerModel):
    """AuraFlow.

    In joint attention the text comes before the image, and eight registers before the text: tokens of no word, which
    the network has learnt. Embeddings of padding are zeros, and are attended to.
    """

    pipelines = ("AuraFlowPipeline",)
    text_first = True
    registers = 8
    encoded_at = MappingProxyType({"cond": (0,), "uncond": (2,)})

    @property
    def sets_begin_index(self) -> bool:
        return True

    def encoded(self, texts: list[str]) -> DenoiserArguments:
        return {EMBEDS: self.pipe.encode_prompt(texts, None, False, device=self.device)[0]}

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        retrieve_timesteps(scheduler, settings.steps, device)

    def attention_kind(self, module: nn.Module) -> str | None:
        # In the later blocks text and image are one stream, whose attention has no separate part for the text.
        return "joint" if super().attention_kind(module) else None

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels *size"]:
        share = torch.tensor([timestep / 1000]).expand(len(rows)).to(rows.device, dtype=rows.dtype)
        output: Tensor = self.pipe.transformer(rows, timestep=share, **conditioning.arguments, return_dict=False)[0]
        return output

    def decode(self, x: Latents, generator: Any) -> Float[Tensor, "images 3 height width"]:
        vae = self.pipe.vae
        with single_precision(vae):
            return self.finished(vae.decode(x.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0])
