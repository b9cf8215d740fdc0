"""`TokenLabels`: names that a user gives to tokens of a prompt, such as those of embeddings without a text."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.short_repr import short_repr
from sdprobe.core.written_values import count, listed, mapping
from sdprobe.plot.printable import printable

Labels = Sequence[str | None] | Mapping[str, int | Sequence[int]]
"""A label for each position, None or ``""`` for one without; or the positions of each label."""


@dataclass(frozen=True)
class TokenLabels:
    """The positions of each label. Neighbouring positions with one label are one occurrence of it.

    >>> labels = TokenLabels.of([None, "red", "Wheel", "wheel", None, "wheel"])
    >>> labels.positions("wheel"), labels.positions("wheel", 0), "WHEEL" in labels, labels
    ((2, 3, 5), (2, 3), True, 'red', 'wheel')
    >>> TokenLabels.of({"wheel": [2, 3, 5], "red": 1}).words == labels.words
    True

    Args:
        words: each label in lower case, with the positions of each occurrence.
        length: the number of positions that labels were given for; None where positions were given for labels.
    """

    words: Mapping[str, tuple[tuple[int, ...], ...]]
    length: int | None = None

    @classmethod
    def of(cls, given: Labels) -> TokenLabels:
        """Return labels as a user gives them. Raises TypeError and ValueError for anything else."""
        found: dict[str, set[int]] = {}
        if isinstance(given, Mapping):
            for label, places in given.items():
                several = places if isinstance(places, Sequence) or hasattr(places, "__iter__") else [places]
                found.setdefault(_label(label), set()).update(map(_position, several))
        elif isinstance(given, Sequence) and not isinstance(given, str):
            for position, own in enumerate(given):
                if own is not None and own != "":
                    found.setdefault(_label(own), set()).add(position)
        else:
            raise TypeError(
                f"labels are a label for each position, or a mapping of labels to positions, not {short_repr(given)}"
            )
        if not found or not all(found.values()):
            raise ValueError(f"each label is of some position, and there is at least one, not {short_repr(given)}")
        words = {label: _occurrences(places) for label, places in found.items()}
        return cls(words, None if isinstance(given, Mapping) else len(given))

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word.lower() in self.words

    def positions(self, label: str, occurrence: int | None = None) -> tuple[int, ...]:
        """Return the positions of a label: of all occurrences, or of one, counted from 0.

        Raises WordNotInPrompt for an occurrence that there is not.
        """
        found = self.words[label.lower()]
        if occurrence is None:
            return tuple(position for positions in found for position in positions)
        if not -len(found) <= occurrence < len(found):
            raise WordNotInPrompt(
                f"the label {label!r} occurs {len(found)} times: occurrence is 0 to {len(found) - 1}, not {occurrence}"
            )
        return found[occurrence]

    def refuse_unfit(self, prompt: Prompt) -> None:
        """Raise ValueError for labels of other tokens than those of a prompt, or that are words of it elsewhere."""
        tokens = len(prompt.ids)
        if self.length is not None and self.length != tokens:
            raise ValueError(
                f"{self.length} labels for {tokens} tokens of the prompt: give one for each, None for a token without"
            )
        for label, found in self.words.items():
            if beyond := [position for positions in found for position in positions if position >= tokens]:
                raise ValueError(f"the label {label!r} is of token {beyond[0]}, and the prompt has {tokens}, from 0")
            own: tuple[int, ...] = ()
            with suppress(WordNotInPrompt):
                own = prompt.positions(label)
            if own and own != self.positions(label):
                raise ValueError(
                    f"{label!r} is a word of the prompt, of the tokens {own}, and a label of {self.positions(label)}: "
                    f"call the label something else"
                )

    def to_plain(self) -> dict[str, list[list[int]]]:
        """Return the labels as JSON holds them."""
        return {label: [list(positions) for positions in found] for label, found in self.words.items()}

    @classmethod
    def from_plain(cls, plain: Any) -> TokenLabels:
        """Return the labels that `to_plain` wrote. Raises ValueError for anything else."""
        words = {
            label: tuple(tuple(map(count, listed(positions))) for positions in listed(found))
            for label, found in mapping(plain).items()
        }
        if not all(found and all(found) for found in words.values()):
            raise ValueError(f"a label without a position, in {short_repr(plain)}")
        return cls(words)

    def __repr__(self) -> str:
        return printable(", ".join(map(repr, self.words)), 500)


def _label(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise TypeError(f"a label is a text, not {given!r}")
    return given.lower()


def _position(given: Any) -> int:
    try:
        position = operator.index(given)
    except TypeError:
        raise TypeError(f"a label's positions are whole numbers, not {given!r}") from None
    if position < 0:
        raise ValueError(f"a label's positions are counted from 0, not {position}")
    return position


def _occurrences(places: set[int]) -> tuple[tuple[int, ...], ...]:
    runs: list[list[int]] = []
    for position in sorted(places):
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return tuple(map(tuple, runs))
