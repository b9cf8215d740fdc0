"""Which prompts a recording is of, where they change within a run.

A callback of an attached pipeline may give it another prompt from some step on. What was recorded of the columns then
belongs to the prompt that was shown in those steps, and to no other.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.run import Role, Row


class PromptReadings:
    """The prompts that the rows of a run were shown, numbered in the order in which they came.

    Args:
        words: the words whose columns are recorded; None for every column.
    """

    def __init__(self, words: Sequence[str | int] | None) -> None:
        self.words = words
        self.prompts: list[tuple[Prompt, ...]] = []
        self.columns: list[list[int] | None] = []

    def number_of(self, prompts: Sequence[Prompt], words_of: Sequence[Prompt] | None = None) -> int:
        """The number of what all images are shown; a new one where it is new.

        Args:
            prompts: one for each image.
            words_of: the prompts in which the words are looked for; None for these alone.
        """
        shown = tuple(prompts)
        if shown not in self.prompts:  # the same objects step by step: they are not looked into
            self.prompts.append(shown)
            self.columns.append(None if self.words is None else columns_of(words_of or shown, self.words))
        return self.prompts.index(shown)

    def of_rows(self, rows: Sequence[Row], role: Role) -> int:
        """The number of what the rows of a role are shown."""
        return self.number_of([row.prompt for row in rows if row.role == role])

    def has(self, number: int, positions: Sequence[int]) -> bool:
        """Whether columns are recorded of a reading."""
        columns = self.columns[number]
        return columns is None or set(positions) <= set(columns)

    def recorded(self, number: int, image: int) -> list[str]:
        """The words of one image's prompt in a reading that are recorded; none where they are not known."""
        prompt = self.prompts[number][image]
        try:
            return [word for word in prompt.words if self.has(number, prompt.positions(word))]
        except WordNotInPrompt:
            return []


def columns_of(prompts: Sequence[Prompt], words: Sequence[str | int]) -> list[int]:
    """The positions of words in the prompts that hold them."""
    found: set[int] = set()
    for word in words:
        for prompt in prompts:
            if isinstance(word, int) or prompt.occurrences(word):
                found.update(prompt.positions(word))
    return sorted(found)
