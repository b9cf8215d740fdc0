"""`parse_words`: the words of a prompt with their parts of speech and their heads, by spaCy or another parser."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ParsedWord(Protocol):
    """What is asked of a word: the attributes of spaCy's ``Token`` that have these names.

    Attributes:
        text: the word as it stands in the text.
        idx: the number of its first character in the text.
        pos_: its part of speech, such as ``"NOUN"``.
        dep_: its relation to its head, such as ``"amod"``; of a word without a head, ``"ROOT"``.
        head: the word it depends on; a word without a head is its own.
    """

    text: str
    idx: int
    pos_: str
    dep_: str
    head: Any


Parse = str | Callable[[str], Iterable[ParsedWord]]
"""The name of an installed model of spaCy, or what takes a text and returns its words, as spaCy's ``nlp`` does."""


def parse_words(parse: Parse, text: str) -> list[ParsedWord]:
    """Return the words of a text as a parser gives them, without white space.

    Args:
        parse: the name of an installed model of spaCy, such as ``"en_core_web_sm"``; its ``nlp`` object; or any
            function that takes a text and returns words with the attributes of `ParsedWord`.
        text: the text.

    Raises:
        ImportError: where spaCy is asked for and not installed.
        ValueError: for a model of spaCy that is not installed, which is never downloaded; for a parser that gives words
            of another text, or without parts of speech or heads.
        TypeError: for something that is no parser, and for words without the attributes of `ParsedWord`.
    """
    if isinstance(parse, str):
        parse = _spacy_model(parse)
    if not callable(parse):
        raise TypeError(f"parse is the name of a model of spaCy, or a function of a text, not {type(parse).__name__}")
    found = [word for word in parse(text) if not _is_space(word)]
    for word in found:
        if text[word.idx : word.idx + len(word.text)] != word.text:
            raise ValueError(
                f"the parser gave {word.text!r} at character {word.idx}, where the prompt {text!r} has not"
            )
    if found and not any(word.pos_ for word in found):
        raise ValueError("the parser gave no parts of speech: take a model of spaCy with a tagger")
    if len(found) > 1 and not any(word.dep_ for word in found):
        raise ValueError("the parser gave no dependencies: take a model of spaCy with a parser")
    return found


def _is_space(word: Any) -> bool:
    if missing := [name for name in ("text", "idx", "pos_", "dep_", "head") if not hasattr(word, name)]:
        raise TypeError(f"a parsed word has no {', '.join(missing)}: spaCy's tokens have them, {word!r} has not")
    return bool(word.text.isspace() or not word.text)


def _spacy_model(name: str) -> Callable[[str], Iterable[ParsedWord]]:
    try:
        spacy = importlib.import_module("spacy")
    except ImportError as error:
        raise ImportError(
            "parsing words needs spaCy: pip install 'sdprobe[grammar]', or pip install spacy; or give parse= a "
            "function of a text"
        ) from error
    try:
        model: Callable[[str], Iterable[ParsedWord]] = spacy.load(name)
    except OSError as error:
        raise ValueError(
            f"spaCy's model {name!r} is not installed: python -m spacy download {name}; or give parse= another, an nlp "
            f"object, or a function of your own"
        ) from error
    return model
