"""A tiny Krea 2 with random weights."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLModel

from tests.tiny_models.qwen_image import WIDTH, qwen_autoencoder, qwen_tokenizer


def qwen3_vl(words: Qwen2Tokenizer) -> Qwen3VLModel:
    """Two layers of a language model, and one of a vision model, which nothing is shown."""
    text = {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        "pad_token_id": 0,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    vision |= {"patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": []}
    return Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)).eval()


def krea2(is_distilled: bool = False) -> Krea2Pipeline:
    """Two blocks, whose four heads share two keys; two layers of the text, whose two heads share one."""
    words = qwen_tokenizer()
    torch.manual_seed(0)
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=WIDTH,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    return Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=qwen_autoencoder(),
        text_encoder=qwen3_vl(words),
        tokenizer=words,
        transformer=transformer.eval(),
        text_encoder_select_layers=(1, 2),
        is_distilled=is_distilled,
    )
