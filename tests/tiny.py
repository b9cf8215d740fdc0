"""Tiny pipelines of the real classes, with random weights and a real byte-level BPE tokenizer."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdprobe.shapes import WEIGHTS

TOKENS = 16


def tokenizer() -> CLIPTokenizer:
    """The embedded model's vocabulary with a context of 16 tokens."""
    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=TOKENS)


def stable_diffusion(
    prediction_type: str = "epsilon",
    channels: tuple[int, ...] = (8, 16),
    sample_size: int = 8,
    seed: int = 0,
    words: CLIPTokenizer | None = None,
) -> StableDiffusionPipeline:
    """Stable Diffusion with two levels, cross-attention at both and in the middle; a picture is 16 × 16 pixels."""
    torch.manual_seed(seed)
    words = tokenizer() if words is None else words
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
        sample_size=2 * sample_size,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=words,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
