"""Pipelines whose denoisers have the real shapes, with random weights: Stable Diffusion 1.5, SDXL, 3.5 and Flux.1.

A denoiser costs what a trained one costs. Text encoders and autoencoders are tiny, since no hook is at work in them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sdprobe.model.toy_model import usual_scheduler
from tests import families

TOKENS, LEVELS = 77, 4  # of a prompt, of an autoencoder
CLIP_WIDTH, BIG_CLIP_WIDTH, T5_WIDTH = 768, 1280, 4096
POOLED_WIDTH = CLIP_WIDTH + BIG_CLIP_WIDTH
SIZES = 6 * 256  # what SDXL is told of the picture's size
NOISE_LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FACTOR = 8  # pixels of a position of the latents
TINY_SIZE, TINY_STEPS = 8 * FACTOR, 2


@dataclass(frozen=True)
class FullSize:
    """A model, and the run in which it is measured.

    Args:
        name: what ``--only`` and the table call it.
        make: makes its pipeline on a device in a dtype, or one of the same layout that is tiny.
        dtype: of its weights.
        size: of the picture, in pixels.
        steps: of a run.
        guidance_scale: of a run.
        target: the ratio to the stock pipeline that maps of all tokens should stay under; None for no target.
        self_attention: whether maps of self-attention are measured too.
    """

    name: str
    make: Callable[[torch.device, torch.dtype, bool], Any]
    dtype: torch.dtype
    size: int
    steps: int
    guidance_scale: float
    target: float | None = None
    self_attention: bool = False


def stable_diffusion(device: torch.device, dtype: torch.dtype, tiny: bool) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5."""
    words = families.clip_tokenizer(TOKENS)
    with made_on(device, dtype):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(32, 32, 64, 64) if tiny else (320, 640, 1280, 1280),
            attention_head_dim=8,
            cross_attention_dim=CLIP_WIDTH,
        )
    parts = {"unet": unet, "vae": families.autoencoder(LEVELS), "text_encoder": clip(words, CLIP_WIDTH)}
    return StableDiffusionPipeline(
        **on(device, dtype, parts),
        tokenizer=words,
        scheduler=usual_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(device: torch.device, dtype: torch.dtype, tiny: bool) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL."""
    words = families.clip_tokenizer(TOKENS)
    with made_on(device, dtype):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(32, 32, 64) if tiny else (320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 2, 4) if tiny else (5, 10, 20),
            transformer_layers_per_block=(1, 1, 1) if tiny else (1, 2, 10),
            cross_attention_dim=POOLED_WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=SIZES + BIG_CLIP_WIDTH,
        )
    parts = {
        "unet": unet,
        "vae": families.autoencoder(LEVELS),
        "text_encoder": clip(words, CLIP_WIDTH),
        "text_encoder_2": clip(words, BIG_CLIP_WIDTH, CLIPTextModelWithProjection),
    }
    return StableDiffusionXLPipeline(
        **on(device, dtype, parts),
        tokenizer=words,
        tokenizer_2=families.clip_tokenizer(TOKENS),
        scheduler=EulerDiscreteScheduler(**NOISE_LEVELS),
        add_watermarker=False,
    )


def stable_diffusion_3(device: torch.device, dtype: torch.dtype, tiny: bool) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3.5 medium: the first 13 blocks also have self-attention of their own."""
    words, t5_words = families.clip_tokenizer(TOKENS), families.t5_tokenizer()
    layers, heads, dual = (3, 2, 1) if tiny else (24, 24, 13)
    with made_on(device, dtype):
        transformer = SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=layers,
            attention_head_dim=64,
            num_attention_heads=heads,
            caption_projection_dim=64 * heads,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=POOLED_WIDTH,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(dual)),
            qk_norm="rms_norm",
        )
    parts = {
        "transformer": with_small_weights(transformer),
        "vae": families.autoencoder(LEVELS, 16, **families.FLOW),
        "text_encoder": clip(words, CLIP_WIDTH, CLIPTextModelWithProjection),
        "text_encoder_2": clip(words, BIG_CLIP_WIDTH, CLIPTextModelWithProjection),
        "text_encoder_3": t5(t5_words),
    }
    return StableDiffusion3Pipeline(
        **on(device, dtype, parts),
        tokenizer=words,
        tokenizer_2=families.clip_tokenizer(TOKENS),
        tokenizer_3=t5_words,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(device: torch.device, dtype: torch.dtype, tiny: bool) -> FluxPipeline:
    """Flux.1 dev."""
    words, t5_words = families.clip_tokenizer(TOKENS), families.t5_tokenizer()
    double, single, heads = (1, 1, 2) if tiny else (19, 38, 24)
    with made_on(device, dtype):
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=128,
            num_attention_heads=heads,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=CLIP_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )
    parts = {
        "transformer": with_small_weights(transformer),
        "vae": families.autoencoder(LEVELS, 16, **families.FLOW),
        "text_encoder": clip(words, CLIP_WIDTH),
        "text_encoder_2": t5(t5_words),
    }
    return FluxPipeline(
        **on(device, dtype, parts),
        tokenizer=words,
        tokenizer_2=t5_words,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


MODELS = (
    FullSize("SD 1.5", stable_diffusion, torch.float16, 512, 20, 7.5, target=1.15, self_attention=True),
    FullSize("SDXL", stable_diffusion_xl, torch.float16, 1024, 10, 5.0, target=1.08),
    FullSize("SD 3.5 medium", stable_diffusion_3, torch.bfloat16, 1024, 6, 5.0),
    FullSize("Flux.1", flux, torch.bfloat16, 1024, 4, 3.5, target=1.05),
)


@contextmanager
def made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """A network made while this is open is on the device and in the dtype from the first: it is never held twice."""
    usual = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(usual)


def on(device: torch.device, dtype: torch.dtype, parts: dict[str, Any]) -> dict[str, Any]:
    """The networks in one dtype, with the small ones and what a large one made in another."""
    return {name: part.to(device, dtype).eval() for name, part in parts.items()}


def with_small_weights(network: Any) -> Any:
    """The network with small weights, with which activations stay finite in many layers of half precision."""
    drawn = torch.Generator(network.device).manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02, generator=drawn)
    return network


def clip(words: Any, width: int, kind: type = CLIPTextModel) -> Any:
    """A text encoder whose embeddings have the real width."""
    return families.clip(words, kind, width=width, inner=64, layers=2, heads=8)


def t5(words: Any) -> Any:
    """A T5 whose embeddings have the real width."""
    return families.t5(words, width=T5_WIDTH, of_head=16, inner=64, layers=1)
