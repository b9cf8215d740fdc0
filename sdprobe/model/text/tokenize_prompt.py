"""`read`: tokenize a text to a `Prompt` with the positions of every word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

from sdprobe.core.prompt import Prompt, TokenRole


def read(tokenizer: Any, text: str, spelt: str | None = None, length: int | None = None, chunks: int = 1) -> Prompt:
    """Return the prompt as this tokenizer passes it to its encoder: padded, and cut at the end of the context.

    Args:
        tokenizer: a fast tokenizer of transformers.
        text: the text as the user wrote it; words are located in it.
        spelt: the text as the tokenizer gets it, with concepts of several vectors written as several tokens.
        length: the number of tokens the encoder gets; None for the tokenizer's own context.
        chunks: how many times that many: what does not fit in the first is read on in the next, each with its own start
            and end.

    Raises TypeError for a tokenizer that does not report offsets of its tokens.
    """
    length = tokenizer.model_max_length if length is None else length
    encoded = in_chunks(tokenizer, text if spelt is None else spelt, length, chunks)
    ids: list[int] = encoded["input_ids"]
    kept = [bool(keep) for keep in encoded["attention_mask"]]
    special = [bool(mark) for mark in encoded["special_tokens_mask"]]
    roles: list[TokenRole] = []
    for i, token in enumerate(ids):
        if not kept[i]:
            roles.append("pad")
        elif not special[i]:
            roles.append("word")
        else:
            # BERT's tokenizers begin with a classification token.
            first = token in (tokenizer.bos_token_id, tokenizer.cls_token_id) and i % length == 0
            roles.append("start" if first else "end")
    spans = [
        tuple(span) if role == "word" else (0, 0) for span, role in zip(encoded["offset_mapping"], roles, strict=True)
    ]
    if spelt is not None and spelt != text:
        spans = _gathered(spans, spelt, set(tokenizer.get_added_vocab()))
    return Prompt.from_spans(text, ids, tokenizer.convert_ids_to_tokens(ids), roles, spans)


def read_in_template(
    tokenizer: Any,
    text: str,
    before: str = "",
    after: str = "",
    *,
    length: int | None = None,
    padded: bool = False,
    padding_side: str | None = None,
    special: bool = True,
    dropped: int = 0,
) -> Prompt:
    """Return the prompt as a language model reads it, inside the text of a template.

    The template's tokens before the text have the role ``"start"``, those after it ``"end"``.

    Args:
        tokenizer: a fast tokenizer of transformers.
        text: the text as the user wrote it.
        before: what the template has before it.
        after: what it has after it.
        length: the number of tokens that are read, those of the template included; None for the tokenizer's context.
        padded: whether shorter texts are padded to that length.
        padding_side: ``"left"`` or ``"right"``; None for the tokenizer's own.
        special: whether the tokenizer adds its own first and last tokens; not where the template has them.
        dropped: how many of the first tokens the denoiser is not shown.

    Raises TypeError for a tokenizer that does not report offsets of its tokens.
    """
    length = tokenizer.model_max_length if length is None else length
    padding = "max_length" if padded else False
    options = {
        "padding": padding,
        "max_length": length,
        "truncation": True,
        "padding_side": padding_side,
        "add_special_tokens": special,
    }
    encoded = _tokenized(tokenizer, before + text + after, **options)
    ids: list[int] = encoded["input_ids"]
    first, past = len(before), len(before) + len(text)
    own = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < b and a < past and b > first]
    begin = own[0] if own else _past_template(encoded, first, tokenizer.bos_token_id)
    roles: list[TokenRole] = []
    for i, kept in enumerate(encoded["attention_mask"]):
        roles.append("pad" if not kept else "word" if i in own else "start" if i < begin else "end")
    spans = [
        (max(a, first) - first, min(b, past) - first) if role == "word" else (0, 0)
        for (a, b), role in zip(encoded["offset_mapping"], roles, strict=True)
    ]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return Prompt.from_spans(text, ids[dropped:], tokens[dropped:], roles[dropped:], spans[dropped:])


def _past_template(encoded: Mapping[str, list[Any]], first: int, bos: int | None) -> int:
    """Return how many tokens come before an empty text: those of the template, and the tokenizer's first."""
    found = zip(encoded["input_ids"], encoded["attention_mask"], encoded["offset_mapping"], strict=True)
    return max(
        (i + 1 for i, (number, kept, (_, b)) in enumerate(found) if kept and (0 < b <= first or number == bos)),
        default=0,
    )


def respaced(own: Prompt, cleaned: str, text: str) -> Prompt:
    """Return the prompt of a cleaned text as that of the text as it was written, where only white space differs.

    Where more than that was changed, words are located in the cleaned text.

    Args:
        own: the prompt of the cleaned text.
        cleaned: the cleaned text.
        text: the text as the user wrote it.
    """
    if cleaned == text or cleaned.split() != text.split():
        return own
    places = [i for i, letter in enumerate(text) if not letter.isspace()]  # of each letter of the cleaned text
    before = list(accumulate((not letter.isspace() for letter in cleaned), initial=0))
    spans = [(places[before[a]], places[before[b] - 1] + 1) if a < b else (a, b) for a, b in own.spans]
    return Prompt.from_spans(text, own.ids, own.tokens, own.roles, spans)


def ids_within_text(tokenizer: Any, word: str) -> list[int]:
    """Return the numbers of a word's tokens as it stands inside a text, where some vocabularies have another token.

    Byte-level vocabularies, such as Qwen's, have one token for a word that begins a text and another one for the same
    word after a space.

    Raises TypeError for a tokenizer that does not report offsets of its tokens.
    """
    before = "a "
    encoded = _tokenized(tokenizer, before + word, add_special_tokens=False)
    own = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [number for number, (_, end) in own if end > len(before)]


def in_chunks(tokenizer: Any, text: str, length: int, chunks: int) -> dict[str, list[Any]]:
    """Return what a tokenizer gives for each token of a text, in so many chunks, one after the other.

    A chunk that the text does not reach is that of an empty text.
    """
    own, empty = _encoded(tokenizer, text, length), _encoded(tokenizer, "", length)
    return {
        name: [value for k in range(chunks) for value in (found[k] if k < len(found) else empty[name][0])]
        for name, found in own.items()
    }


def chunks_of(tokenizer: Any, text: str, length: int) -> int:
    """Return how many chunks of a length hold all tokens of a text."""
    return len(_encoded(tokenizer, text, length)["input_ids"])


def _encoded(tokenizer: Any, text: str, length: int) -> dict[str, list[list[Any]]]:
    """Return what a tokenizer gives for each token of a text, in as many chunks as it takes."""
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_overflowing_tokens": True}
    return _tokenized(tokenizer, text, **options)


def _tokenized(tokenizer: Any, text: str, **options: Any) -> dict[str, list[Any]]:
    """Return what a tokenizer gives for each token of a text."""
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"{type(tokenizer).__name__} does not say where in the text its tokens come from; load its fast version"
        )
    encoded = tokenizer(text, **options, return_offsets_mapping=True, return_special_tokens_mask=True)
    names = ("input_ids", "attention_mask", "special_tokens_mask", "offset_mapping")
    return {name: encoded[name] for name in names}


def side_by_side(text: str, readings: Mapping[tuple[str, ...], Prompt]) -> Prompt:
    """Join the tokens of several encoders' prompts, one after the other, to one prompt.

    Args:
        text: the text.
        readings: by the names of the encoders whose tokens are at these positions.
    """
    parts: dict[str, range] = {}
    first = 0
    for names, own in readings.items():
        parts |= dict.fromkeys(names, range(first, first + len(own.ids)))
        first += len(own.ids)
    every = readings.values()
    ids, tokens = [i for own in every for i in own.ids], [token for own in every for token in own.tokens]
    roles, spans = [role for own in every for role in own.roles], [span for own in every for span in own.spans]
    return replace(Prompt.from_spans(text, ids, tokens, roles, spans), parts=parts)


def _gathered(spans: list[tuple[int, int]], spelt: str, added: set[str]) -> list[tuple[int, int]]:
    """Convert spans in "<cat> <cat>_1 a" to spans in "<cat> a": every vector of a concept gets the span of its name."""
    several = sorted((name for name in added if f"{name}_1" in added), key=len, reverse=True)
    if not several:
        return spans
    pattern = "|".join(f"({re.escape(name)})(?: {re.escape(name)}_[0-9]+)+" for name in several)
    gathered: list[tuple[int, int]] = list(spans)
    shift = 0
    for match in re.finditer(pattern, spelt):
        first = match.start() - shift
        name = next(group for group in match.groups() if group)
        surplus = len(match.group()) - len(name)
        for i, (a, b) in enumerate(spans):
            if a < b and match.start() <= a < match.end():
                gathered[i] = (first, first + len(name))
            elif a < b and a >= match.end():
                gathered[i] = (a - shift - surplus, b - shift - surplus)
        shift += surplus
    return gathered
