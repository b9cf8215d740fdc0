"""Tiny text encoders with random weights, and their tokenizers: CLIP and T5."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from sdprobe.shapes import WEIGHTS

CLIP_TOKENS, CLIP_WIDTH, T5_WIDTH = 16, 16, 32
WORDS = ("▁a", "▁red", "▁blue", "▁green", "▁circle", "▁star", "▁square", "▁check", "ered", "▁ring", "▁of", "▁left")


def clip_tokenizer(tokens: int = CLIP_TOKENS) -> CLIPTokenizer:
    """The embedded model's vocabulary, in a context of so many tokens."""
    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=tokens)


def t5_tokenizer() -> T5Tokenizer:
    """T5's own kind of vocabulary: some words, and every letter."""
    letters = [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,.<>-0123456789"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*special, *((word, -2.0) for word in WORDS), *letters], extra_ids=0)


def clip(
    words: CLIPTokenizer,
    kind: type = CLIPTextModel,
    *,
    width: int = CLIP_WIDTH,
    inner: int = 32,
    layers: int = 3,
    heads: int = 2,
) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=words.model_max_length,
        projection_dim=width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return kind(config).eval()


def t5(
    words: T5Tokenizer, *, width: int = T5_WIDTH, of_head: int = 8, inner: int = 32, layers: int = 2
) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words),
        d_model=width,
        d_kv=of_head,
        d_ff=inner,
        num_layers=layers,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()
