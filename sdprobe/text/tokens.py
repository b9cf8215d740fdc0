"""From letters to tokens: how a model reads a prompt, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from jaxtyping import Int
from torch import Tensor

from sdprobe.core.prompt import Prompt, TokenRole
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.plot.table import as_html, as_text


@dataclass(frozen=True)
class Token:
    """One row of a table: where it stands, its number and spelling in the vocabulary, its word and its role.

    ``word`` is empty for the tokens that the tokenizer adds.
    """

    position: int
    id: int
    token: str
    word: str
    role: TokenRole


@dataclass(frozen=True)
class Tokens:
    """How prompts are read: iterate over it for the rows of all prompts; print it, or end a notebook cell with it.

    Attributes:
        prompts: the prompts, with every word placed.
    """

    prompts: tuple[Prompt, ...]

    def rows(self, prompt: int = 0) -> tuple[Token, ...]:
        """The tokens of one prompt, padding included."""
        own = self.prompts[prompt]
        word_of = {position: own.text[slice(*own.spans[position])] for position, role in enumerate(own.roles)}
        for found in own.words.values():
            for positions in found:
                first, last = own.spans[positions[0]][0], own.spans[positions[-1]][1]
                word_of |= dict.fromkeys(positions, own.text[first:last])
        parts = zip(own.ids, own.tokens, own.roles, strict=True)
        return tuple(Token(i, number, token, word_of[i], role) for i, (number, token, role) in enumerate(parts))

    def __iter__(self) -> Iterator[Token]:
        return (row for i in range(len(self.prompts)) for row in self.rows(i))

    def __str__(self) -> str:
        return "\n\n".join(self._text(i) for i in range(len(self.prompts)))

    __repr__ = __str__

    def _text(self, prompt: int) -> str:
        return "\n".join([*as_text(self._shown(prompt)), *self._notes(prompt)])

    def _repr_html_(self) -> str:
        tables = []
        for i, own in enumerate(self.prompts):
            notes = "".join(f"<p>{escape(note)}</p>" for note in self._notes(i))
            tables.append(as_html(self._shown(i), own.text) + notes)
        return "".join(tables)

    def _shown(self, prompt: int) -> list[tuple[str, ...]]:
        """The header and the rows up to the first padding token."""
        rows = [row for row in self.rows(prompt) if row.role != "pad"]
        shown = [(str(row.position), str(row.id), row.token, row.word, row.role) for row in rows]
        return [("position", "id", "token", "word", "role"), *shown]

    def _notes(self, prompt: int) -> list[str]:
        own = self.prompts[prompt]
        padding = own.roles.count("pad")
        notes = [f"and {padding} padding tokens"] if padding else []
        if own.cut:
            notes.append(f"longer than the context of {len(own.ids)} tokens; cut off: {' '.join(own.cut)}")
        return notes


def tokens(model: Model | Any, prompt: str | Sequence[str]) -> Tokens:
    """How a model reads a prompt, or several: position, id, token, word and role of each token.

    >>> import sdprobe
    >>> sdprobe.tokens(sdprobe.load(), "a checkered ring")
    position  id   token              word       role
    0         661  <|startoftext|>               start
    1         320  a</w>              a          word
    2         ...  check              checkered  word
    3         ...  ered</w>           checkered  word
    4         ...  ring</w>           ring       word
    5         662  <|endoftext|>                 end
    and 26 padding tokens

    Args:
        model: what `sdprobe.load` gives, or a live pipeline.
        prompt: one text or several.

    Returns:
        A table that prints, shows in a notebook, and gives its rows. Where a prompt is longer than the context it
        says which words were cut off.
    """
    own = load(model)
    return Tokens(tuple(map(own.read, [prompt] if isinstance(prompt, str) else prompt)))


def detokenize(model: Model | Any, ids: Int[Tensor, "batch tokens"] | Sequence[Sequence[int]]) -> list[str]:
    """The texts that batches of token numbers spell, start, end and padding left out.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> sdprobe.detokenize(model, [row.ids for row in sdprobe.tokens(model, ["a red ring", "a star"]).prompts])
    ['a red ring', 'a star']

    Where a prompt is read by several encoders one after the other, as in Stable Diffusion 3, it is spelt by the first.
    """
    own = load(model)
    first = own.length(own.first_shown)
    texts: list[str] = own.tokenizer.batch_decode([list(row)[:first] for row in ids], skip_special_tokens=True)
    return texts
