"""`PromptOfEmbeddings`: a prompt of which a pipeline was given only the embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sdprobe.core.prompt import Prompt, WordNotInPrompt


class PromptOfEmbeddings(Prompt):
    """A prompt of which only the embeddings were given: its words are not known."""

    @classmethod
    def by(cls, embeds: Tensor) -> PromptOfEmbeddings:
        """The prompt of embeddings ``[batch, tokens, width]``; a token is called by its number."""
        numbers = range(embeds.shape[1])
        return cls("", tuple(numbers), tuple(f"token {i}" for i in numbers), UnknownWords())

    def occurrences(self, word: str) -> tuple[tuple[int, ...], ...]:
        raise _unknown()

    def positions(self, word: str | int, occurrence: int | None = None) -> tuple[int, ...]:
        if isinstance(word, int):
            return super().positions(word)
        raise _unknown()


class UnknownWords(Mapping[str, Any]):
    """In the place of a prompt's words: an error that says why there are none."""

    def __getitem__(self, word: str) -> Any:
        raise _unknown()

    def __iter__(self) -> Iterator[str]:
        raise _unknown()

    def __len__(self) -> int:
        raise _unknown()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnknownWords)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "(not known)"


def _unknown() -> WordNotInPrompt:
    return WordNotInPrompt(
        "the pipeline was given prompt_embeds instead of a text, so which words they hold is not known: ask for a "
        "token by its number, give the pipeline the text, or name tokens for their maps by AttentionMaps(labels=...)"
    )
