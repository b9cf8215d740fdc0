"""Tiny pipelines of Wan: 2.1, and 2.2 with one denoiser or two."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

WIDTH = 32
LATENTS = 4


def umt5(words: T5Tokenizer) -> UMT5EncoderModel:
    """T5 whose layers each have position biases of their own."""
    config = UMT5Config(
        vocab_size=len(words),
        d_model=WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return UMT5EncoderModel(config).eval()


def video_autoencoder() -> AutoencoderKLWan:
    """Two levels: one position of the latents is 2 × 2 pixels of, after the first, two frames."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=LATENTS,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 0.5, 1.0],
        scale_factor_spatial=2,
        scale_factor_temporal=2,
    ).eval()


def transformer(**options: Any) -> WanTransformer3DModel:
    """Two blocks of two heads."""
    usual = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": LATENTS,
        "out_channels": LATENTS,
        "text_dim": WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    }
    return WanTransformer3DModel(**usual | options).eval()


def wan(two: bool = False, **options: Any) -> WanPipeline:
    """Wan 2.1; with ``two``, as 2.2, a second denoiser at the lower half of the timesteps."""
    from tests.families import t5_tokenizer

    words = t5_tokenizer()
    torch.manual_seed(0)
    return WanPipeline(
        tokenizer=words,
        text_encoder=umt5(words),
        vae=video_autoencoder(),
        transformer=transformer(),
        transformer_2=transformer() if two else None,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        boundary_ratio=0.9 if two else None,
        **options,
    )
