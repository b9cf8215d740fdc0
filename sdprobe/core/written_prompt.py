"""Prompts as JSON holds them, and back: of one text, of several texts, and of embeddings alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from sdprobe.core.prompt import Prompt, TokenRole
from sdprobe.core.prompt_of_embeddings import PromptOfEmbeddings, UnknownWords
from sdprobe.core.prompt_of_texts import PromptOfTexts
from sdprobe.core.short_repr import short_repr


def write_prompt(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as JSON holds it.

    >>> import sdprobe
    >>> prompt = sdprobe.load().read("a red circle")
    >>> read_prompt(write_prompt(prompt)) == prompt
    True
    """
    written: dict[str, Any] = {"text": prompt.text, "ids": list(prompt.ids), "tokens": list(prompt.tokens)}
    if isinstance(prompt, PromptOfEmbeddings):
        return {"kind": "embeddings", **written}
    written |= {
        "kind": "text",
        "words": {word: [list(own) for own in found] for word, found in prompt.words.items()},
        "roles": list(prompt.roles),
        "spans": [list(span) for span in prompt.spans],
        "parts": {name: [own.start, own.stop] for name, own in prompt.parts.items()},
    }
    if isinstance(prompt, PromptOfTexts):
        readings = [[start, write_prompt(reading)] for start, reading in prompt.readings]
        written |= {"kind": "texts", "texts": dict(prompt.texts), "readings": readings}
    return written


def read_prompt(written: Any) -> Prompt:
    """Return the prompt that `write_prompt` wrote. Raises ValueError for anything else."""
    try:
        kind, text = written["kind"], _text(written["text"])
        ids, tokens = tuple(map(int, written["ids"])), tuple(map(_text, written["tokens"]))
        if kind == "embeddings":
            return PromptOfEmbeddings(text, ids, tokens, UnknownWords())
        words = {
            _text(word): tuple(tuple(map(int, own)) for own in found)
            for word, found in _mapping(written["words"]).items()
        }
        roles = tuple(map(_role, written["roles"]))
        spans = tuple((int(first), int(past)) for first, past in written["spans"])
        parts = {_text(name): range(*map(int, own)) for name, own in _mapping(written["parts"]).items()}
        if kind == "text":
            return Prompt(text, ids, tokens, words, roles, spans, parts)
        if kind == "texts":
            texts = {_text(name): _text(own) for name, own in _mapping(written["texts"]).items()}
            if any(own["kind"] == "texts" for _, own in written["readings"]):  # which could be nested without end
                raise ValueError("a reading is of one text")
            readings = tuple((int(start), read_prompt(own)) for start, own in written["readings"])
            return PromptOfTexts(text, ids, tokens, words, roles, spans, parts, texts, readings)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{short_repr(written)} is no prompt: {error!r}") from error
    raise ValueError(f"{short_repr(kind)} is no kind of prompt")


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"a text is needed, not {short_repr(given)}")
    return given


def _mapping(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"a JSON object is needed, not {short_repr(given)}")
    return given


def _role(given: Any) -> TokenRole:
    if given not in get_args(TokenRole):
        raise ValueError(f"{short_repr(given)} is no role of a token")
    role: TokenRole = given
    return role
