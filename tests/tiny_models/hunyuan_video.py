"""A tiny HunyuanVideo, with random weights."""

from __future__ import annotations

import re

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

from tests.tiny_models.clip_and_t5 import CLIP_WIDTH, clip, clip_tokenizer
from tests.tiny_models.llama import llama, llama_tokenizer

CHANNELS, WIDTH = 4, 32


def autoencoder() -> AutoencoderKLHunyuanVideo:
    """2 pixels each way and 4 frames are one position."""
    return AutoencoderKLHunyuanVideo(
        latent_channels=CHANNELS,
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        block_out_channels=(4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.5,
        spatial_compression_ratio=2,
        mid_block_add_attention=False,
    ).eval()


def hunyuan_video() -> HunyuanVideoPipeline:
    """A block of two streams and one of one, and a refiner of the text's tokens, each with two heads."""
    before, after = DEFAULT_PROMPT_TEMPLATE["template"].split("{}")
    words, words_2 = llama_tokenizer(*filter(None, re.split(r"<\|\w+\|>", before + after))), clip_tokenizer(77)
    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        rope_axes_dim=(4, 4, 4),
    )
    return HunyuanVideoPipeline(
        text_encoder=llama(words, WIDTH),
        tokenizer=words,
        transformer=transformer.eval(),
        vae=autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip(words_2),
        tokenizer_2=words_2,
    )
