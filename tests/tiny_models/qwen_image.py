"""Tiny Qwen-Image: one picture position is two pixels wide, two heads, two blocks."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tests.tiny_models.byte_level_words import WORDS, vocabulary

WIDTH = 16
TEMPLATE = (
    "system user assistant Describe the image by detailing the color shape size texture quantity text spatial "
    "relationships of the objects and background"
)
"""Words of the pipeline's template: each is one token, so that it has as many as in the released model."""


TEMPLATE_WORDS = tuple(TEMPLATE.split()[:4]) + tuple(f" {word}" for word in TEMPLATE.split()[4:])


def qwen_tokenizer(words: tuple[str, ...] = (*WORDS, *TEMPLATE_WORDS), **options: Any) -> Qwen2Tokenizer:
    """Qwen's kind of tokenizer, of a few words."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocab, merges = vocabulary(words, special)
    made = Qwen2Tokenizer(vocab=vocab, merges=merges, model_max_length=4096, **options)
    made.add_tokens(list(special[1:]), special_tokens=True)
    return made


def qwen_encoder(words: Qwen2Tokenizer, patch_size: int = 4, **tokens: int) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    vision |= {"patch_size": patch_size, "window_size": 4 * patch_size, "fullatt_block_indexes": [0]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)).eval()


def qwen_autoencoder(channels: int = 4, halvings: int = 1) -> AutoencoderKLQwenImage:
    """Latents are halved in size so many times."""
    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=channels,
        dim_mult=[1] * (halvings + 1),
        num_res_blocks=int(halvings == 1),  # of pictures of a million pixels they would take seconds
        temperal_downsample=[False] * halvings,
        latents_mean=[0.1 * k for k in range(channels)],
        latents_std=[1.0 + 0.25 * k for k in range(channels)],
    ).eval()


def qwen_image(**options: Any) -> QwenImagePipeline:
    """Two blocks; the scheduler's levels depend on the size, as in the released model."""
    words = qwen_tokenizer()
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        **options,
    )
    pipe = QwenImagePipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=qwen_autoencoder(),
        text_encoder=qwen_encoder(words),
        tokenizer=words,
    )
    pipe.default_sample_size = 16  # pictures of 32 pixels, where no size is asked for
    return pipe
