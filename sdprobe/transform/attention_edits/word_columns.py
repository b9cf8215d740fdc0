"""`WordColumns`: where words of the prompts stand among the keys of an attention call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.limits.row_subset import change_rows
from sdprobe.core.prompt import Prompt, positions_of, refuse_missing
from sdprobe.core.rows import Role, rows_of, side_of
from sdprobe.core.run import Run
from sdprobe.core.site import Site

Word = str | int
Columns = Sequence[Mapping[Word, list[int]]]
"""For each row, the positions on the key axis of each word that its prompt has."""


@dataclass(frozen=True)
class WordColumns:
    """Words of the prompts of a role, as columns of attention.

    Each prompt is searched for itself, for every occurrence of a word, in the tokens of every text encoder.

    Args:
        words: words or phrases, ``"<start>"``, ``"<end>"``, ``"<pad>"``, or token positions.
        role: the rows whose prompts are searched.

    Raises:
        ValueError: for no words, and for an unknown role.
        TypeError: for what is neither a word nor a position.
    """

    words: tuple[Word, ...]
    role: Role = "cond"

    @classmethod
    def of(cls, words: Any, role: Role) -> WordColumns:
        """Return the columns of words that a user gave: one word or position, or several."""
        rows_of((), role)  # raises an error for an unknown one
        return cls(tuple(as_words(words)), role)

    def refuse_missing(self, run: Run) -> None:
        """Raise an error for rows that a run does not have, and for a word that none of its prompts has."""
        if self.role not in run.roles:
            raise ValueError(f"this run has no rows of role {self.role!r}; its roles: {', '.join(run.roles)}")
        prompts = run.negative_prompts if side_of(self.role) == "uncond" else run.prompts
        refuse_missing(prompts, self.words)

    def change(
        self, attn: Attention, site: Site, changed: Callable[[Attention, Columns, Site], Attention]
    ) -> Attention:
        """Return a call of which the rows with any of the words are changed; the output of the others stays exactly.

        Args:
            attn: the call.
            site: its site.
            changed: returns the changed call, given one of these rows only and where in each of them the words are.
        """
        if site.text is None:
            return attn
        found: dict[int, dict[Word, list[int]]] = {}
        for k, row in enumerate(attn.rows):
            if row.role == self.role and (own := self._in(row.prompt)):
                found[k] = {word: site.tokens(positions) for word, positions in own.items()}
        columns = list(found.values())
        return change_rows(attn, site, list(found), lambda given, at: changed(given, columns, at))

    def _in(self, prompt: Prompt) -> dict[Word, tuple[int, ...]]:
        return {word: found for word in self.words if (found := positions_of(prompt, word))}


def as_words(words: Any) -> list[Word]:
    """Return words and positions as a list, which a file can hold.

    >>> as_words("red"), as_words(["red", 3])
    (['red'], ['red', 3])

    Raises TypeError for anything else, and ValueError for none.
    """
    several = words if not isinstance(words, str) and hasattr(words, "__iter__") else [words]
    found = [str(word) if isinstance(word, str) else _position(word) for word in several]
    if not found:
        raise ValueError("there are no words: name some, such as 'red', '<pad>' or a token's position")
    return found


def _position(word: Any) -> int:
    try:
        return operator.index(word)
    except TypeError:
        raise TypeError(f"a word is a text, such as 'red', or a token's position, not {word!r:.80}") from None


def scaled_columns(attn: Attention, factors: Float[Tensor, "#rows #heads 1 keys"], site: Site) -> Attention:
    """Return a call whose probabilities are multiplied by a factor for each key, at the queries of the picture."""
    probs = attn.probs().clone()
    probs[:, :, site.image] *= factors.to(probs)
    return attn.with_probs(probs)
