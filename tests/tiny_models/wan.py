"""Tiny pipelines of Wan: 2.1, and 2.2 with one denoiser or two."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

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


class ImageToVideo(WanImageToVideoPipeline):
    """The pipeline, with the same method as text to video has to encode a text: its own fails without ftfy."""

    _get_t5_prompt_embeds = WanPipeline._get_t5_prompt_embeds


def wan_image_to_video(kind: str = "2.1") -> WanImageToVideoPipeline:
    """Image to video: ``"2.1"`` with CLIP's tokens of the picture, ``"2.2"`` with two denoisers, ``"2.2 5B"``.

    The denoisers of the first two are shown the picture's latents, and where they are, in further channels.
    """
    pipe, shown = wan(two=kind == "2.2"), {} if kind == "2.2 5B" else {"in_channels": 2 * LATENTS + 2}
    parts = dict(pipe.components)
    torch.manual_seed(1)
    seen = {"image_dim": 16, "added_kv_proj_dim": 24} if kind == "2.1" else {}
    parts["transformer"] = transformer(**shown, **seen)
    if kind == "2.1":
        eye = CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        )
        parts["image_encoder"] = CLIPVisionModel(eye).eval()
        parts["image_processor"] = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    elif kind == "2.2":
        parts["transformer_2"] = transformer(**shown)
    return ImageToVideo(**parts, boundary_ratio=0.9 if kind == "2.2" else None, expand_timesteps=kind == "2.2 5B")
