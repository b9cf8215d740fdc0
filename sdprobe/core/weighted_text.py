r"""`read_weights`: a text with weights of words, such as ``a (red:1.3) circle++``, as pieces with their weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

from sdprobe.core.prompt import WORD

ALONE = 1.1
"""The weight of brackets without a number."""

BASES = {"+": 1.1, "-": 0.9}
"""The weight that each sign after a word or a bracket multiplies by."""

ESCAPED = frozenset("()\\:+-")
MOST = 10.0
"""The largest weight of a word or of brackets: a larger number is a slip, such as a time of day."""

NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
AFTER_BRACKET = re.compile(r"(?:\d+(?:\.\d+)?|\.\d+)(?!-?\w|\.\d)")  # not of "(red)3d", nor a full stop
SIGNS = re.compile(r"(?:\++|-+)(?![\w+-])")  # not those within a word, as in "red--blue" and "c++11"
AFTER_COLON = re.compile(r":([^():]*)\)")
CALL = re.compile(r"\.(?:blend|and|swap)\s*\(")


class Piece(NamedTuple):
    """A part of a text with one weight."""

    text: str
    weight: float


@dataclass(frozen=True)
class WeightedText:
    """A text as pieces with weights.

    Attributes:
        pieces: the pieces, which make up the text; neighbours have different weights.
    """

    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The text without its weights."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The characters of the text that each piece covers, as ``(start, stop)``."""
        return tuple(pairwise(accumulate((len(piece.text) for piece in self.pieces), initial=0)))

    @property
    def is_plain(self) -> bool:
        """Whether every weight is 1."""
        return all(piece.weight == 1 for piece in self.pieces)


@dataclass
class _Group:
    """What stands between two brackets, or the whole text."""

    begin: int = -1
    weight: float = 1.0
    parts: list[str | _Group] = field(default_factory=list)

    def pieces(self, scale: float = 1.0) -> Iterator[Piece]:
        for part in self.parts:
            if isinstance(part, str):
                yield Piece(part, scale)
            else:
                yield from part.pieces(scale * part.weight)


def read_weights(written: str) -> WeightedText:
    r"""Read a text with weights of words.

    ``(red:1.3)`` and ``(red)1.3`` give the words in brackets a weight; ``(red)`` is 1.1; each ``+`` after a word or a
    bracket is a factor of 1.1, each ``-`` one of 0.9; weights in weights are multiplied. What belongs to the text
    itself is written with a backslash: ``\(``, ``\)``, ``\:``, ``\+``, ``\-``, ``\\``. Signs within a word, as in
    "black-and-white", "red--blue" and "c++11", and those between spaces are text, and so are a number after brackets
    that goes on as a word, ``(red)3d``, and a full stop after it. A weight is from 0 to 10. A number before the colon,
    as in ``(at 3:00)``, could be a time, and is refused: write ``\:``, or the weight behind the brackets.

    >>> read_weights("a (red:1.3) circle++ and a ((small)0.5 star)0.5").pieces  # doctest: +ELLIPSIS
    (Piece(text='a ', weight=1.0), Piece(text='red ', weight=1.3), Piece(text='circle ', weight=1.21...),
    Piece(text='and a ', weight=1.0), Piece(text='small ', weight=0.25), Piece(text='star', weight=0.5))
    >>> read_weights(r"a circle \(red\)").text
    'a circle (red)'

    Args:
        written: the text with its weights.

    Raises:
        ValueError: for a bracket without its other, for brackets with nothing in them or with two weights, for a
            weight that is no number from 0 to 10, for a weight that may be a time, and for ``.blend(``, ``.and(`` and
            ``.swap(``, with the position.

    Source: the signs and ``(red)1.3`` are those of the library compel, whose ``.blend``, ``.and`` and ``.swap`` are not
    read here; ``(red:1.3)`` and ``(red)`` are those of the web UI of AUTOMATIC1111, in which compel reads plain
    brackets.
    """
    open_groups, at = [_Group()], 0
    while at < len(written):
        sign, group = written[at], open_groups[-1]
        if sign == "\\" and written[at + 1 : at + 2] in ESCAPED and at + 1 < len(written):
            group.parts.append(written[at + 1])
            at += 2
        elif sign == "(":
            open_groups.append(_Group(at))
            at += 1
        elif sign == ")":
            open_groups, at = _closed(written, open_groups, at, None, at + 1)
        elif sign == "." and (called := CALL.match(written, at)):
            raise _error(written, at, f"{called.group()!r}, which compel reads as a command, and which is none here")
        elif sign == ":" and len(open_groups) > 1 and (found := AFTER_COLON.match(written, at)):
            weight = _number(written, found.group(1), at + 1)
            open_groups, at = _closed(written, open_groups, at, weight, found.end())
        else:
            word = WORD.match(written, at)
            said = word.group() if word else sign
            at += len(said)
            signs = SIGNS.match(written, at) if word else None
            group.parts.append(said if signs is None else _Group(at, _weight(written, signs.group(), at), [said]))
            at += 0 if signs is None else len(signs.group())
    if len(open_groups) > 1:
        raise _error(written, open_groups[-1].begin, "a bracket that is never closed")
    return WeightedText(tuple(_merged(open_groups[0].pieces())))


def _closed(
    written: str, open_groups: list[_Group], at: int, weight: float | None, past: int
) -> tuple[list[_Group], int]:
    """Close the last group, and return the groups that are open still and where the text goes on."""
    if len(open_groups) == 1:
        raise _error(written, at, "a bracket that was never opened")
    *outer, group = open_groups
    if not any(isinstance(part, _Group) or part.strip() for part in group.parts):
        raise _error(written, group.begin, "brackets with nothing in them")
    after = AFTER_BRACKET.match(written, past) or SIGNS.match(written, past)
    if after and weight is not None:
        raise _error(written, past, "a second weight of one bracket")
    if after:
        weight = _weight(written, after.group(), past)
    group.weight = ALONE if weight is None else weight
    outer[-1].parts.append(group)
    return outer, past if after is None else after.end()


def _merged(pieces: Iterator[Piece]) -> list[Piece]:
    """Return neighbours of one weight as one piece; white space belongs to the piece before it."""
    found: list[Piece] = []
    for piece in pieces:
        if found and (piece.weight == found[-1].weight or not piece.text.strip()):
            found[-1] = Piece(found[-1].text + piece.text, found[-1].weight)
        else:
            found.append(piece)
    return found


def _number(written: str, said: str, at: int) -> float:
    """Return the weight after a colon. Raises ValueError for what is none, or may be a time or a ratio."""
    if not NUMBER.fullmatch(said.strip()):
        raise _error(written, at, f"{said.strip()!r}, which is no weight: a number from 0 upward, such as 1.3")
    if written[at - 2 : at - 1].isdigit() and said[:1].isdigit():
        raise _error(
            written, at - 1, "a colon between two numbers, which may be a time, or a weight as in '(route 66)1.3'"
        )
    return _weight(written, said.strip(), at)


def _weight(written: str, said: str, at: int) -> float:
    """Return the weight that a number, or signs, give. Raises ValueError for one that is too large."""
    try:
        weight = float(BASES[said[0]] ** len(said) if said[0] in BASES else float(said))
    except OverflowError:
        weight = math.inf
    if weight > MOST:
        shown = said if len(said) < 20 else f"{said[:8]}…"
        raise _error(written, at, f"{shown!r}, a weight above {MOST:g}, the largest that is read")
    return weight


def _error(written: str, at: int, what: str) -> ValueError:
    near = written[max(at - 20, 0) : at + 20]
    return ValueError(
        f"at character {at} of the prompt, in {near!r}, is {what}. With weights=True, brackets give weights, as in "
        f"'a (red:1.3) circle'; those of the text itself are written \\( and \\), and a colon in brackets \\:"
    )
