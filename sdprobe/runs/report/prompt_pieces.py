"""`pieces_of`: the text of a prompt in pieces, of which some are words that can be asked for."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from sdprobe.core.prompt import SPECIAL, UNSPACED, WORD, Prompt, WordNotInPrompt

SPECIAL_NAMES = {
    "<start>": "the token that begins every prompt",
    "<end>": "the token that ends the prompt",
    "<pad>": "the tokens that fill the context",
}
SCRIPTS = re.compile(f"[{UNSPACED}]+|[^{UNSPACED}]+")


@dataclass(frozen=True)
class Piece:
    """A part of a prompt's text.

    Args:
        text: the characters.
        word: what to ask a recording for: a word as it is in `Prompt.words`, or token positions where the text is
            written without spaces; None for what is between words, and for words that the encoder does not read.
        occurrence: which occurrence of the word it is.
        of: how often the word occurs.
        tokens: of how many tokens it is.
    """

    text: str
    word: str | tuple[int, ...] | None = None
    occurrence: int = 0
    of: int = 1
    tokens: int = 0

    @property
    def title(self) -> str:
        """The word in quotes; of a word that occurs several times, which of them it is."""
        which = f", occurrence {self.occurrence + 1} of {self.of}" if self.of > 1 else ""
        return f"“{self.text}”{which}"


def pieces_of(prompt: Prompt) -> list[Piece]:
    """Return the whole text of a prompt, in pieces.

    In scripts without spaces, a piece is the smallest part of the text that begins and ends with tokens.

    >>> import sdprobe
    >>> [piece.word for piece in pieces_of(sdprobe.load().read("a red circle, a star"))]
    ['a', None, 'red', None, 'circle', None, 'a', None, 'star']
    """
    found: list[Piece] = []
    end = 0
    for match in WORD.finditer(prompt.text):
        found.append(Piece(prompt.text[end : match.start()]))
        found += _of_match(prompt, match)
        end = match.end()
    found.append(Piece(prompt.text[end:]))
    return _counted([piece for piece in found if piece.text])


def special_pieces(prompt: Prompt) -> list[Piece]:
    """Return the tokens that the tokenizer adds: start, end and padding."""
    names = {name: prompt.roles.count(role) for name, role in SPECIAL.items()}
    return [Piece(name, name, 0, 1, count) for name, count in names.items() if count]


def words_unknown(prompt: Prompt) -> str:
    """Return why the words of a prompt are not known; empty if they are."""
    try:
        list(prompt.words)
    except WordNotInPrompt as error:
        return str(error)
    return ""


def _of_match(prompt: Prompt, match: re.Match[str]) -> list[Piece]:
    first, past = match.span()
    if not _under(prompt, first, past):
        return [Piece(match.group())]
    if not re.search(f"[{UNSPACED}]", match.group()):
        return [Piece(match.group(), match.group().lower(), tokens=len(_under(prompt, first, past)))]
    found: list[Piece] = []
    for part in SCRIPTS.finditer(match.group()):
        a, b = first + part.start(), first + part.end()
        edges = _edges(prompt, a, b) if re.match(f"[{UNSPACED}]", part.group()) else [b]
        for edge in edges:
            positions = _under(prompt, a, edge)
            found.append(Piece(prompt.text[a:edge], positions or None, tokens=len(positions)))
            a = edge
    return found


def _edges(prompt: Prompt, first: int, past: int) -> list[int]:
    """Where a token ends and none goes on, within a part of the text; its end is the last."""
    spans = [prompt.spans[i] for i in _under(prompt, first, past)]
    return [edge for edge in range(first + 1, past) if not any(a < edge < b for a, b in spans)] + [past]


def _under(prompt: Prompt, first: int, past: int) -> tuple[int, ...]:
    return tuple(i for i, (a, b) in enumerate(prompt.spans) if a < b and a < past and b > first)


def _counted(pieces: list[Piece]) -> list[Piece]:
    """Number the occurrences of each word; those written without spaces are counted by their text."""
    keys = [piece.word if isinstance(piece.word, str) else piece.text for piece in pieces]
    total = Counter(key for key, piece in zip(keys, pieces, strict=True) if piece.word is not None)
    so_far: Counter[str] = Counter()
    found: list[Piece] = []
    for key, piece in zip(keys, pieces, strict=True):
        if piece.word is None:
            found.append(piece)
            continue
        found.append(Piece(piece.text, piece.word, so_far[key], total[key], piece.tokens))
        so_far[key] += 1
    return found
