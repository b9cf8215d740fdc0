"""How a tokenizer reads a text: the `Prompt`, with every word placed."""

from __future__ import annotations

from typing import Any

from sdprobe.prompt import Prompt, TokenRole


def read(tokenizer: Any, text: str) -> Prompt:
    """The prompt as this tokenizer hands it to its encoder: padded, and cut at the context's end.

    Raises TypeError for a tokenizer that cannot say where in the text its tokens come from.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"{type(tokenizer).__name__} does not say where in the text its tokens come from; load its fast version"
        )
    encoded = tokenizer(
        text,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
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
            roles.append("start" if token == tokenizer.bos_token_id and i == 0 else "end")
    spans = [
        tuple(span) if role == "word" else (0, 0) for span, role in zip(encoded["offset_mapping"], roles, strict=True)
    ]
    return Prompt.from_spans(text, ids, tokenizer.convert_ids_to_tokens(ids), roles, spans)
