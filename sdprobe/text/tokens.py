"""`tokens` and `detokenize`: how a model tokenizes a prompt, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import Any

from jaxtyping import Int
from torch import Tensor

from sdprobe.core.data_frame import data_frame
from sdprobe.core.prompt import Prompt, TokenRole
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.plot.table import as_html, as_text


@dataclass(frozen=True)
class Token:
    """One row of the table: position, number and spelling in the vocabulary, word and role of a token.

    ``word`` is empty for the tokens that the tokenizer adds.
    """

    position: int
    id: int
    token: str
    word: str
    role: TokenRole


@dataclass(frozen=True)
class Tokens:
    """The tokens of prompts. Iterate over it for the rows of all prompts; print it for a table.

    Attributes:
        prompts: the prompts, with the positions of every word.
    """

    prompts: tuple[Prompt, ...]

    def rows(self, prompt: int = 0) -> tuple[Token, ...]:
        """Return the tokens of one prompt, including padding."""
        own = self.prompts[prompt]
        word_of = {position: own.text[slice(*own.spans[position])] for position, role in enumerate(own.roles)}
        for found in own.words.values():
            for positions in found:
                first, last = own.spans[positions[0]][0], own.spans[positions[-1]][1]
                word_of |= dict.fromkeys(positions, own.text[first:last])
        parts = zip(own.ids, own.tokens, own.roles, strict=True)
        return tuple(Token(i, number, token, word_of[i], role) for i, (number, token, role) in enumerate(parts))

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each token, including padding.

        >>> import sdprobe
        >>> table = sdprobe.tokens(sdprobe.load(), ["a star", "a ring"]).to_pandas()
        >>> table[table.role == "word"][["prompt", "position", "token", "word"]]
            prompt  position     token  word
        1        0         1     a</w>     a
        2        0         2  star</w>  star
        33       1         1     a</w>     a
        34       1         2  ring</w>  ring

        Raises ImportError if pandas is not installed.
        """
        rows = [(i, row) for i in range(len(self.prompts)) for row in self.rows(i)]
        columns = {field.name: [getattr(row, field.name) for _, row in rows] for field in fields(Token)}
        return data_frame({"prompt": [i for i, _ in rows], **columns})

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
        """Return the header and the rows, without padding tokens."""
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
    """Tokenize one or more prompts: position, id, token, word and role of each token.

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
        model: the result of `sdprobe.load`, or a live pipeline.
        prompt: one text or several.

    Returns:
        A table that prints, shows in a notebook, and gives its rows. If a prompt is longer than the context, it lists
        the words that were cut off.
    """
    own = load(model)
    return Tokens(tuple(map(own.read, [prompt] if isinstance(prompt, str) else prompt)))


def detokenize(model: Model | Any, ids: Int[Tensor, "batch tokens"] | Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of batches of token ids, without start, end and padding tokens, and without a template.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> sdprobe.detokenize(model, [row.ids for row in sdprobe.tokens(model, ["a red ring", "a star"]).prompts])
    ['a red ring', 'a star']

    If several encoders read the prompt one after the other, as in Stable Diffusion 3, the ids of the first are used.
    """
    own = load(model)
    first, empty = own.length(own.first_shown), own.read("")
    places = empty.parts.get(own.first_shown, range(len(empty.ids)))
    before, after = ([empty.ids[k] for k in places if empty.roles[k] == role] for role in ("start", "end"))
    rows = [_within(list(map(int, row))[:first], before, after) for row in ids]
    texts: list[str] = own.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [text.strip() for text in texts]  # after an instruction, a prompt begins with a space


def _within(ids: list[int], before: list[int], after: list[int]) -> list[int]:
    """Return the ids of a text without those of the template around it, as far as they are there."""
    # The last one before it may be joined to the text's first.
    begins = (
        start + len(lead)
        for lead in (before, before[:-1])
        for start in range(len(ids) - len(lead) + 1)
        if lead and ids[start : start + len(lead)] == lead
    )
    begin = next(begins, 0)
    ends = (end for end in range(len(ids) - len(after), begin - 1, -1) if ids[end : end + len(after)] == after)
    return ids[begin : next(ends, len(ids))]
