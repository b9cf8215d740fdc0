"""A tiny Llama 3 with random weights, and a tokenizer of its own kind made on the spot."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from tests.tiny_models.byte_level_words import WORDS, vocabulary

SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>")
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts a text before it looks for tokens."""


def llama_tokenizer(*texts: str) -> PreTrainedTokenizerFast:
    """Every letter, some words, and the pieces of texts, each one token: so many as with Llama's own vocabulary."""
    cut = Split(Regex(PATTERN), "isolated")
    pieces = [piece for text in texts for piece, _ in cut.pre_tokenize_str(text)]
    numbers, merges = vocabulary([*WORDS, *pieces], SPECIAL)
    made = Tokenizer(BPE(numbers, merges, ignore_merges=True))
    made.pre_tokenizer = Sequence([cut, ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    bos, *_ = SPECIAL
    made.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, numbers[bos])])
    made.add_special_tokens([*SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=bos, eos_token="<|eot_id|>", pad_token="<pad>", padding_side="right"
    )


def llama(tokenizer: PreTrainedTokenizerFast, width: int = 32) -> LlamaModel:
    """Three layers, whose two heads share one key."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    )
    return LlamaModel(config).eval()
