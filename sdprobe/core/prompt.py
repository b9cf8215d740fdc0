"""`Prompt`: a text as its encoder reads it: tokens, words, and the positions of each word."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from sdprobe.core.short_repr import short_repr
from sdprobe.plot.printable import printable

TokenRole = Literal["start", "word", "end", "pad"]

WORD = re.compile(r"<[^<>\s]+>|\w+(?:[-'’]\w+)*")
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Tibetan; Burmese; Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese syllables
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Scripts that are written without spaces between words."""
SPACED = rf"[^\W{UNSPACED}]"  # a letter of a script with spaces, or a digit
SPECIAL: Mapping[str, TokenRole] = MappingProxyType({"<start>": "start", "<end>": "end", "<pad>": "pad"})


class WordNotInPrompt(KeyError, ValueError):
    """A word was asked for that is not in the prompt. The message lists the prompt's words."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message in quotes


@dataclass(frozen=True)
class Prompt:
    """A text as its encoder reads it.

    Args:
        text: the text.
        ids: the vocabulary's number of each token, including start, end and padding tokens.
        tokens: the same tokens, as they are written in the vocabulary.
        words: each word of the text, in lower case, with the token positions of each occurrence.
        roles: what each token is: ``"start"``, ``"word"``, ``"end"`` or ``"pad"``.
        spans: the characters of the text that each token covers, as ``(start, stop)``; empty for the other tokens.
        parts: the token positions of each text encoder, by its name in the pipeline. Stable Diffusion 3 joins the
            tokens of two encoders, so every word has positions in both.

    >>> import sdprobe
    >>> prompt = sdprobe.load().read("a red circle and a checkered circle")
    >>> prompt.words["circle"], prompt.words["checkered"]
    (((3,), (8,)), ((6, 7),))
    >>> prompt.positions("red circle"), prompt.positions("circle", occurrence=1), prompt.positions("<end>")
    ((2, 3), (8,), (9,))
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    words: Mapping[str, tuple[tuple[int, ...], ...]] = field(hash=False)
    roles: tuple[TokenRole, ...] = ()
    spans: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    parts: Mapping[str, range] = field(default_factory=dict, hash=False, compare=False, repr=False)

    @classmethod
    def from_spans(
        cls,
        text: str,
        ids: Sequence[int],
        tokens: Sequence[str],
        roles: Sequence[TokenRole],
        spans: Sequence[tuple[int, int]],
    ) -> Prompt:
        """Make a prompt whose words are found in ``text`` and located by their tokens' ``spans``."""
        bare = cls(text, tuple(ids), tuple(tokens), {}, tuple(roles), tuple(spans))
        words: dict[str, tuple[tuple[int, ...], ...]] = {}
        for match in WORD.finditer(text):
            if positions := bare._under(*match.span()):
                key = match.group().lower()
                words[key] = (*words.get(key, ()), positions)
        return cls(bare.text, bare.ids, bare.tokens, words, bare.roles, bare.spans)

    def at(self, positions: Iterable[int]) -> Prompt:
        """Return the prompt with the tokens at these positions only, as a denoiser is shown some of them.

        >>> import sdprobe
        >>> sdprobe.load().read("a red circle").at(range(1, 4)).positions("circle")
        (2,)
        """
        kept = list(positions)
        ids, tokens = [self.ids[k] for k in kept], [self.tokens[k] for k in kept]
        return self.from_spans(self.text, ids, tokens, [self.roles[k] for k in kept], [self.spans[k] for k in kept])

    def occurrences(self, word: str) -> tuple[tuple[int, ...], ...]:
        """Return the token positions of every occurrence of a word, a phrase or a special name.

        Case and the amount of white space do not matter. ``"<start>"``, ``"<end>"`` and ``"<pad>"`` name the tokens
        the tokenizer adds. In scripts without spaces, such as Chinese, Japanese or Thai, a word is any part of the text
        that begins and ends with tokens. Returns an empty tuple if the prompt does not contain the word.
        """
        if not isinstance(word, str):
            raise TypeError(f"a word is a text, such as 'circle', or a token position; ask for one, not for {word!r}")
        if word.lower() in self.words:
            return self.words[word.lower()]
        if word in SPECIAL:
            found = tuple(i for i, role in enumerate(self.roles) if role == SPECIAL[word])
            return (found,) if found else ()
        spans = (span for span in self._written(word) if not self._cuts_token(*span))
        return tuple(positions for positions in (self._under(*span) for span in spans) if positions)

    def positions(self, word: str | int, occurrence: int | None = None) -> tuple[int, ...]:
        """Return the token positions of a word: of all occurrences together, or of one (0 is the first).

        A number is taken as a position. Raises `WordNotInPrompt` for a word or an occurrence that is not there.
        """
        if not isinstance(word, str) and hasattr(word, "__index__"):
            word = operator.index(word)
            if not -len(self.ids) <= word < len(self.ids):
                raise WordNotInPrompt(f"token {word} is outside the prompt's {len(self.ids)} tokens")
            return (word % len(self.ids),)
        assert not isinstance(word, int)  # which is a position
        found = self.occurrences(word)
        if not found and (cut := [span for span in self._written(word) if self._cuts_token(*span)]):
            around = "".join(self.text[slice(*self.spans[i])] + "|" for i in self._under(*cut[0])).rstrip("|")
            raise WordNotInPrompt(
                f"{word!r} stands in {short_repr(self.text)}, but does not begin and end with tokens, which there are "
                f"{around!r}: ask for whole ones"
            )
        if not found and (self._written(word) or any(p.lower() in map(str.lower, self.cut) for p in word.split())):
            raise WordNotInPrompt(
                f"{word!r} lies past the {len(self.ids)} tokens that are read of {short_repr(self.text)}"
            )
        if not found:
            raise WordNotInPrompt(
                f"{word!r} is not in the prompt {short_repr(self.text)}; its words are {self._listed()}"
            )
        if occurrence is None:
            return tuple(position for positions in found for position in positions)
        if not -len(found) <= occurrence < len(found):
            raise WordNotInPrompt(
                f"{word!r} occurs {len(found)} times in {short_repr(self.text)}: occurrence is 0 to {len(found) - 1}, "
                f"not {occurrence}"
            )
        return found[occurrence]

    def under(self, first: int, past: int) -> tuple[int, ...]:
        """Return the positions of the tokens under characters of the text; none if a token is only partly under them.

        >>> import sdprobe
        >>> prompt = sdprobe.load().read("a red circle and a checkered circle")
        >>> prompt.under(19, 28), prompt.under(19, 26)
        ((6, 7), ())
        """
        positions = self._under(first, past)
        beyond = (self.text[a:first] + self.text[past:b] for a, b in (self.spans[i] for i in positions))
        return () if any(map(str.strip, beyond)) else positions

    def positions_in_last(self, word: str) -> tuple[int, ...]:
        """Return the positions of a word in the tokens of the last text encoder, T5 in Stable Diffusion 3.

        Those in all of its tokens where the last does not read it. Raises `WordNotInPrompt` as `positions`.
        """
        positions = self.positions(word)
        last = list(self.parts.values())[-1:]
        return tuple(p for p in positions for own in last if p in own) or positions

    def of(self, encoder: str) -> range:
        """Return the positions of the tokens from one text encoder. Raises ValueError if there are none."""
        if encoder not in self.parts:
            raise ValueError(f"no token comes from {encoder!r} here; the prompt is read by {', '.join(self.parts)}")
        return self.parts[encoder]

    def text_for(self, encoder: str) -> str:
        """The text that a text encoder is given: this one, unless a pipeline was given several."""
        return self.text

    def spelt(self, position: int) -> str:
        """Return a token without the vocabulary's mark for the end or the start of a word.

        Of a token that byte-level vocabularies write in letters that stand for bytes, return its part of the text.
        """
        token = self.tokens[position].removesuffix("</w>").removeprefix("▁").removeprefix("Ġ")
        return token if token.isascii() else self.text[slice(*self.spans[position])].strip() or token

    @property
    def unpadded(self) -> int:
        """The number of tokens without the padding at the end."""
        return len(self.ids) - self.roles.count("pad")

    @property
    def cut(self) -> tuple[str, ...]:
        """The words after the end of the context, which the encoder does not see.

        >>> import sdprobe
        >>> sdprobe.load().read("a " * 30 + "red circle").cut
        ('red', 'circle')
        """
        past = max((last for _, last in self.spans), default=0)
        return tuple(match.group() for match in WORD.finditer(self.text) if match.end() > past)

    def _written(self, word: str) -> list[tuple[int, int]]:
        """Return where a word is in the text; between letters of scripts with spaces, only as a whole word."""
        if not word.split():
            return []
        pattern = r"\s+".join(re.escape(part) for part in word.split())
        first, last = word.strip()[0], word.strip()[-1]
        pattern = (f"(?<!{SPACED})" if first.isalnum() and re.match(SPACED, first) else "") + pattern
        pattern += f"(?!{SPACED})" if last.isalnum() and re.match(SPACED, last) else ""
        return [match.span() for match in re.finditer(pattern, self.text, re.IGNORECASE)]

    def _cuts_token(self, first: int, past: int) -> bool:
        """Whether a span of the text, next to other letters, begins or ends inside a token."""
        inside = [edge for edge in (first, past) if re.match(r"\w\w", self.text[max(edge - 1, 0) : edge + 1])]
        return any(a < edge < b for edge in inside for a, b in self.spans)

    def _under(self, first: int, past: int) -> tuple[int, ...]:
        return tuple(i for i, (a, b) in enumerate(self.spans) if a < b and a < past and b > first)

    def _listed(self) -> str:
        return printable(", ".join(repr(word) for word in self.words), 500) or "(none)"


def positions_of(prompt: Prompt, word: str | int) -> tuple[int, ...]:
    """Return the token positions of every occurrence of a word in a prompt, none if it does not occur."""
    with suppress(WordNotInPrompt):
        return prompt.positions(word)
    return ()


def refuse_missing(prompts: Sequence[Prompt], words: Iterable[str | int]) -> None:
    """Raise `WordNotInPrompt`, which lists the words of the first prompt, for a word that none of the prompts has."""
    for word in words:
        if not any(positions_of(prompt, word) for prompt in prompts):
            prompts[0].positions(word)
