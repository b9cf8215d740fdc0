"""A tiny AuraFlow: one joint and one single block."""

from __future__ import annotations

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from tests.tiny_models.parts import T5_WIDTH, autoencoder, t5_tokenizer


def umt5(words: T5Tokenizer) -> UMT5EncoderModel:
    """T5 with positions of its own in every layer."""
    config = UMT5Config(vocab_size=len(words), d_model=T5_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return UMT5EncoderModel(config).eval()


def aura_flow() -> AuraFlowPipeline:
    words = t5_tokenizer()
    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        tokenizer=words,
        text_encoder=umt5(words),
        vae=autoencoder(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )
