"""A tiny Gemma 2 with random weights, and a tokenizer of Gemma's own kind made on the spot."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers.processors import TemplateProcessing
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

WORDS = ("▁a", "▁red", "▁blue", "▁green", "▁circle", "▁star", "▁square", "▁check", "▁ring", "▁of", "▁left", "ered")
LETTERS = [chr(code) for code in range(33, 127)]


def gemma_tokenizer(texts: Iterable[str] = ()) -> GemmaTokenizer:
    """Every letter, some words, and the words of texts, each grown from its first letter to its last.

    Args:
        texts: whose words, after a space, are one token each.
    """
    words = [*(f"▁{word}" for text in texts for word in text.split() if word.isascii()), *WORDS]
    merges = dict.fromkeys((word[:n], word[n]) for word in words for n in range(1, len(word)))
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    vocabulary = dict.fromkeys([*special, "▁", "\n", *LETTERS, *(a + b for a, b in merges)])
    made = GemmaTokenizer({token: i for i, token in enumerate(vocabulary)}, [*merges])
    made._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return made


def gemma(tokenizer: GemmaTokenizer, width: int = 32) -> Gemma2Model:
    """Two layers, whose two heads share one key."""
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=4096,
    )
    return Gemma2Model(config).eval()
