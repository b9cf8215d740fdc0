"""Tiny Z-Image: one block of each refiner, two of both together; of 16 × 16 pixels, half the tokens are padding."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from tests.tiny_models.autoencoder_kl import FLOW, autoencoder
from tests.tiny_models.byte_level_words import WORDS, vocabulary

WIDTH = 16
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen3_tokenizer() -> Qwen2Tokenizer:
    """Qwen's kind of tokenizer, of a few words, with a chat's template."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocab, merges = vocabulary((*WORDS, "user", "assistant"), special)
    made = Qwen2Tokenizer(vocab=vocab, merges=merges, model_max_length=4096)
    made.add_tokens(list(special[1:]), special_tokens=True)
    made.chat_template = TEMPLATE
    return made


def qwen3(words: Qwen2Tokenizer) -> Qwen3Model:
    """Two layers, whose two heads share one key."""
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Qwen3Model(config).eval()


def z_image() -> ZImagePipeline:
    words = qwen3_tokenizer()
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token)  # the class begins with zeros
    return ZImagePipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(**FLOW),
        text_encoder=qwen3(words),
        tokenizer=words,
    )
