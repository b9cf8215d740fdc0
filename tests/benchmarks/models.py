"""The models that are measured: real pipelines with random weights, whose costs are those of trained ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import sdprobe
from sdprobe.model.toy_model import usual_scheduler
from tests.families import autoencoder, clip, clip_tokenizer

TOKENS = 77
PROMPT = "a red circle left of a blue square above a green star"


@dataclass(frozen=True)
class Shape:
    """A U-Net in the layout of SD 1.5: cross-attention at three levels and in the middle, 16 sites, 8 heads.

    Args:
        name: what a table calls it.
        channels: of the four levels.
        width: of the text's embeddings.
        groups: of the group norms.
    """

    name: str
    channels: tuple[int, int, int, int]
    width: int = 768
    groups: int = 32

    def model(self, seed: int = 0) -> sdprobe.Model:
        """A model of this shape: its U-Net is of full cost, its text encoder and autoencoder are tiny."""
        torch.manual_seed(seed)
        words = clip_tokenizer(TOKENS)
        return sdprobe.load(
            StableDiffusionPipeline(
                vae=autoencoder(4),
                text_encoder=_text_encoder(words, self.width),
                tokenizer=words,
                unet=UNet2DConditionModel(
                    sample_size=64,
                    block_out_channels=self.channels,
                    cross_attention_dim=self.width,
                    attention_head_dim=8,
                    norm_num_groups=self.groups,
                ).eval(),
                scheduler=usual_scheduler(),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        )


MEDIUM = Shape("med", (64, 128, 256, 256))
SD15 = Shape("sd15", (320, 640, 1280, 1280))
SD15_THIN = Shape("sd15, thin", (16, 32, 64, 64), width=32, groups=8)  # the sites and maps of SD 1.5, quick to run


@dataclass(frozen=True)
class ShapeXL:
    """A U-Net in the layout of SDXL: cross-attention at two levels and in the middle, 70 sites, 10 and 20 heads.

    Args:
        name: what a table calls it.
        channels: of the three levels.
        width: of each text encoder's embeddings.
        groups: of the group norms.
    """

    name: str
    channels: tuple[int, int, int]
    width: int
    groups: int

    def model(self, seed: int = 0) -> sdprobe.Model:
        """A model of this shape: its text encoders and autoencoder are tiny."""
        torch.manual_seed(seed)
        words = clip_tokenizer(TOKENS)
        return sdprobe.load(
            StableDiffusionXLPipeline(
                vae=autoencoder(4),
                text_encoder=_text_encoder(words, self.width),
                text_encoder_2=_text_encoder(words, self.width, CLIPTextModelWithProjection),
                tokenizer=words,
                tokenizer_2=words,
                unet=UNet2DConditionModel(
                    sample_size=128,
                    block_out_channels=self.channels,
                    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                    attention_head_dim=(5, 10, 20),
                    transformer_layers_per_block=(1, 2, 10),
                    use_linear_projection=True,
                    addition_embed_type="text_time",
                    addition_time_embed_dim=8,
                    projection_class_embeddings_input_dim=6 * 8 + self.width,
                    cross_attention_dim=2 * self.width,
                    norm_num_groups=self.groups,
                ).eval(),
                scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
                add_watermarker=False,
            )
        )


SDXL_THIN = ShapeXL("sdxl, thin", (20, 40, 80), width=32, groups=10)  # the sites and maps of SDXL, quick to run


def _text_encoder(words: Any, width: int, kind: type = CLIPTextModel) -> Any:
    return clip(words, kind, width=width, inner=width, layers=1, heads=8)
