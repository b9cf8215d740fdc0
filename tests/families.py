"""Tiny pipelines of every family's real classes, with random weights and real tokenizers made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModelWithProjection

from tests.tiny import stable_diffusion
from tests.tiny_models.aura_flow import aura_flow
from tests.tiny_models.autoencoder_kl import FLOW, autoencoder
from tests.tiny_models.clip_and_t5 import CLIP_WIDTH, T5_WIDTH, clip, clip_tokenizer, t5, t5_tokenizer
from tests.tiny_models.cogvideox import cogvideox
from tests.tiny_models.flux2 import flux2_dev, flux2_klein
from tests.tiny_models.hunyuan_video import hunyuan_video
from tests.tiny_models.krea2 import krea2
from tests.tiny_models.ltx import ltx
from tests.tiny_models.lumina2 import lumina2
from tests.tiny_models.qwen_image import qwen_image
from tests.tiny_models.sana import sana
from tests.tiny_models.wan import wan
from tests.tiny_models.z_image import z_image


def stable_diffusion_xl(zeroed: bool = True) -> StableDiffusionXLPipeline:
    """Two levels, of which the lower has cross-attention; latents 8 × 8."""
    words = clip_tokenizer()
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + CLIP_WIDTH,
        cross_attention_dim=2 * CLIP_WIDTH,
        norm_num_groups=4,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip(words),
        text_encoder_2=clip(words, CLIPTextModelWithProjection),
        tokenizer=words,
        tokenizer_2=clip_tokenizer(),
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        force_zeros_for_empty_prompt=zeroed,
        add_watermarker=False,
    )


def stable_diffusion_3(dual: bool = True, with_t5: bool = True, normed: bool | None = None) -> StableDiffusion3Pipeline:
    """Blocks; with ``dual``, as in 3.5 Medium, the first also has self-attention; 3.5 Large has norms alone."""
    normed = dual if normed is None else normed
    words, words_3 = clip_tokenizer(), t5_tokenizer()
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * CLIP_WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=(0,) if dual else (),
        qk_norm="rms_norm" if normed else None,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(**FLOW),
        text_encoder=clip(words, CLIPTextModelWithProjection),
        tokenizer=words,
        text_encoder_2=clip(words, CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(words_3) if with_t5 else None,
        tokenizer_3=words_3 if with_t5 else None,
    )


def flux(guidance_embeds: bool = True) -> FluxPipeline:
    """One double-stream and one single-stream block; dev is told the guidance scale, schnell is not."""
    words, words_2 = clip_tokenizer(), t5_tokenizer()
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
        vae=autoencoder(**FLOW),
        text_encoder=clip(words),
        tokenizer=words,
        text_encoder_2=t5(words_2),
        tokenizer_2=words_2,
    )


def pixart(kind: type = PixArtAlphaPipeline, sample_size: int = 8) -> Any:
    """One block. Of a sample size for which the pipeline knows sizes (32), its autoencoder is of the usual factor 8."""
    words = t5_tokenizer()
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=sample_size,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=T5_WIDTH,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        use_additional_conditions=False,
    )
    torch.nn.init.normal_(transformer.proj_out.weight)  # the class begins with zeros there
    return kind(
        transformer=transformer.eval(),
        scheduler=DPMSolverMultistepScheduler(),
        vae=autoencoder(4 if sample_size == 32 else 2),
        text_encoder=t5(words),
        tokenizer=words,
    )


def stable_diffusion_2() -> Any:
    """As 2.x at 768: v-prediction, linear projections."""
    return stable_diffusion(prediction_type="v_prediction")


FAMILIES: dict[str, Callable[[], Any]] = {
    "Stable Diffusion 1": stable_diffusion,
    "Stable Diffusion 2": stable_diffusion_2,
    "Stable Diffusion XL": stable_diffusion_xl,
    "Stable Diffusion 3": lambda: stable_diffusion_3(dual=False),
    "Stable Diffusion 3.5": stable_diffusion_3,
    "Stable Diffusion 3.5 Large": lambda: stable_diffusion_3(dual=False, normed=True),
    "Flux.1 dev": flux,
    "Flux.1 schnell": lambda: flux(guidance_embeds=False),
    "PixArt-α": pixart,
    "PixArt-Σ": lambda: pixart(PixArtSigmaPipeline),
    "Sana": sana,
    "AuraFlow": aura_flow,
    "Krea 2": krea2,
    "LTX-Video": ltx,
    "CogVideoX": cogvideox,
    "CogVideoX 1.5": lambda: cogvideox(in_pairs=True),
    "HunyuanVideo": hunyuan_video,
    "Wan 2.1": wan,
    "Wan 2.2": lambda: wan(two=True),
    "Lumina 2": lumina2,
    "Z-Image": z_image,
    "Qwen-Image": qwen_image,
    "Flux.2 klein": flux2_klein,
    "Flux.2 dev": flux2_dev,
}
"""Each family's variants, by name."""

ASKED: dict[str, dict[str, Any]] = {
    "Sana": {"height": 64, "width": 96},
    "Krea 2": {"height": 16, "width": 24},
    "Z-Image": {"height": 16, "width": 24},
    "LTX-Video": {"frames": 5, "height": 32, "width": 64},
    "CogVideoX": {"frames": 5, "height": 16, "width": 24, "images_per_prompt": 1},
    "CogVideoX 1.5": {"frames": 11, "height": 16, "width": 24, "images_per_prompt": 1},
    "HunyuanVideo": {"frames": 9, "height": 16, "width": 32},
    "Wan 2.1": {"frames": 5, "height": 16, "width": 32},
    "Wan 2.2": {"frames": 5, "height": 16, "width": 32, "guidance_scale_2": 2.0},
}
"""What runs of a variant are asked for beside the usual settings, such as ``frames``."""

OLDER = tuple(FAMILIES)[: list(FAMILIES).index("Sana")]
"""Stable Diffusion, Flux.1 and PixArt, each with a scheduler, an encoder or a guidance of its own."""

ALL = [pytest.param(name, marks=[pytest.mark.nightly] * (name not in OLDER)) for name in FAMILIES]
"""Every variant; the newer ones at night, since `check_family` holds all of them to what a family promises."""
