"""A tiny AuraFlow: one joint and one single block."""

from __future__ import annotations

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tests.tiny_models.autoencoder_kl import autoencoder
from tests.tiny_models.clip_and_t5 import T5_WIDTH, t5_tokenizer
from tests.tiny_models.wan import umt5


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
