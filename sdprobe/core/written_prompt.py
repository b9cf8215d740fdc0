"""Prompts as JSON holds them, and back: of one text, of several texts, and of embeddings alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from sdprobe.core.prompt import Prompt, TokenRole
from sdprobe.core.prompt_of_embeddings import NOT_READ, PromptNotRead, PromptOfEmbeddings, UnknownWords
from sdprobe.core.prompt_of_texts import PromptOfTexts
from sdprobe.core.short_repr import short_repr
from sdprobe.core.written_values import MOST_ENTRIES, count, listed, mapping, one_of, pair, text, whole
from sdprobe.plot.printable import printable


def write_prompt(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as JSON holds it.

    >>> import sdprobe
    >>> prompt = sdprobe.load().read("a red circle")
    >>> read_prompt(write_prompt(prompt)) == prompt
    True
    """
    written: dict[str, Any] = {"text": prompt.text, "ids": list(prompt.ids), "tokens": list(prompt.tokens)}
    if isinstance(prompt, PromptOfEmbeddings):
        return {"kind": "not read" if isinstance(prompt, PromptNotRead) else "embeddings", **written}
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
        return _prompt(mapping(written))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{short_repr(written)} is no prompt: {printable(str(error), 400)}") from error


def _prompt(written: Mapping[str, Any]) -> Prompt:
    kind, own = text(written["kind"]), text(written["text"])
    ids, tokens = tuple(map(whole, _many(written["ids"]))), tuple(map(text, _many(written["tokens"])))
    if len(tokens) != len(ids):
        raise ValueError(f"{len(ids)} ids of {len(tokens)} tokens")
    if kind == "embeddings":
        return PromptOfEmbeddings(own, ids, tokens, UnknownWords())
    if kind == "not read":
        return PromptNotRead(own, ids, tokens, UnknownWords(NOT_READ))
    words = {
        word: tuple(tuple(count(position, len(ids) - 1) for position in _many(each)) for each in _many(found))
        for word, found in mapping(written["words"]).items()
    }
    roles = tuple(one_of(each, get_args(TokenRole), "role of a token") for each in _many(written["roles"], len(ids)))
    spans = tuple(pair(span, len(own)) for span in _many(written["spans"], len(ids)))
    parts = {name: range(*pair(place, len(ids))) for name, place in mapping(written["parts"]).items()}
    if kind == "text":
        return Prompt(own, ids, tokens, words, roles, spans, parts)
    if kind != "texts":
        raise ValueError(f"{short_repr(kind)} is no kind of prompt")
    texts = {name: text(each) for name, each in mapping(written["texts"]).items()}
    readings = tuple(_reading(each, len(ids)) for each in _many(written["readings"]))
    return PromptOfTexts(own, ids, tokens, words, roles, spans, parts, texts, readings)


def _reading(written: Any, tokens: int) -> tuple[int, Prompt]:
    start, prompt = _many(written, 2)
    if mapping(prompt)["kind"] == "texts":  # which could be nested without end
        raise ValueError("a reading is of one text")
    own = _prompt(prompt)
    return count(start, tokens - len(own.ids)), own


def _many(given: Any, *counts: int) -> list[Any]:
    """Return a list; where a number is given, of so many entries, or empty."""
    found = listed(given, MOST_ENTRIES)
    if counts and found and len(found) != counts[0]:
        raise ValueError(f"{len(found)} entries, where {counts[0]} are needed")
    return found
