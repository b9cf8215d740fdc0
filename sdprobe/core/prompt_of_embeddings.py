"""`PromptOfEmbeddings`, `PromptNotRead`: prompts whose words are not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sdprobe.core.prompt import Prompt, WordNotInPrompt

ONLY_EMBEDDINGS = (
    "the pipeline was given prompt_embeds instead of a text, so which words they hold is not known: ask for a token by "
    "its number, give the pipeline the text, or name tokens for their maps by AttentionMaps(labels=...)"
)
NOT_READ = (
    "no family knows this pipeline, so which of its tokens belong to which words is not known: ask for positions on "
    "the key axis by their numbers, as in attn.probs(tokens=[3])"
)
"""Why the words of a prompt are not known."""


@dataclass(frozen=True)
class PromptOfEmbeddings(Prompt):
    """A prompt of which only the embeddings were given: its words are not known."""

    words: Any = field(hash=False)  # an error instead of a mapping

    @classmethod
    def by(cls, embeds: Tensor) -> PromptOfEmbeddings:
        """The prompt of embeddings ``[batch, tokens, width]``; a token is called by its number."""
        numbers = range(embeds.shape[1])
        return cls("", tuple(numbers), tuple(f"token {i}" for i in numbers), UnknownWords())

    def occurrences(self, word: str) -> tuple[tuple[int, ...], ...]:
        raise self._unknown()

    def positions(self, word: str | int, occurrence: int | None = None) -> tuple[int, ...]:
        if isinstance(word, int):
            return super().positions(word)
        raise self._unknown()

    def _unknown(self) -> WordNotInPrompt:
        return WordNotInPrompt(self.words.why if isinstance(self.words, UnknownWords) else ONLY_EMBEDDINGS)


class PromptNotRead(PromptOfEmbeddings):
    """A prompt whose text is known, and of which nobody knows how the pipeline reads it."""

    @classmethod
    def of_text(cls, text: str) -> PromptNotRead:
        """The prompt of a text; it has no tokens that are known."""
        return cls(text, (), (), UnknownWords(NOT_READ))


class UnknownWords(Mapping[str, Any]):
    """In the place of a prompt's words: an error that says why there are none."""

    def __init__(self, why: str = "") -> None:
        self.why = why or ONLY_EMBEDDINGS

    def __getitem__(self, word: str) -> Any:
        raise WordNotInPrompt(self.why)

    def __iter__(self) -> Iterator[str]:
        raise WordNotInPrompt(self.why)

    def __len__(self) -> int:
        raise WordNotInPrompt(self.why)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnknownWords)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "(not known)"
