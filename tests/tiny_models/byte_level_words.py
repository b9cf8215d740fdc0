"""Byte-level BPE vocabularies of a few words, and every letter besides: the kind that Qwen and Mistral use."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel

WORDS = (" red", " blue", " green", " circle", " star", " square", " ring", " of", " left", " check")
"""Words of prompts, within a text: with the space before them."""


def vocabulary(words: Sequence[str], special: Sequence[str] = ()) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary and its merges, in which each word is one token.

    Args:
        words: the words as they stand in a text; those with a space before them come first.
        special: further tokens, which come first of all.
    """
    spelt = [_spelt(word) for word in sorted(words, key=lambda word: not word.startswith(" "))]
    merges = list(dict.fromkeys((word[:n], word[n]) for word in spelt for n in range(1, len(word))))
    tokens = (*special, *sorted(ByteLevel.alphabet()), *(a + b for a, b in merges))
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def _spelt(word: str) -> str:
    """Return a word in the letters that stand for bytes."""
    ((pieces, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
    return pieces
