"""Which prompts a recording is of, where they change within a run.

A callback of an attached pipeline may give it another prompt from some step on. What was recorded of the columns then
belongs to the prompt that was shown in those steps, and to no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.run import Role, Row, Run, rows_of
from sdprobe.core.written_prompt import read_prompt, write_prompt
from sdprobe.core.written_values import count, listed, whole


class ShownRows(NamedTuple):
    """What the rows of one role are shown.

    Attributes:
        role: the role.
        reading: the number of their prompts.
        rows: their positions in the batch; a slice if they are contiguous.
        images: how many there are.
        columns: the token positions that are recorded; None for all.
    """

    role: Role
    reading: int
    rows: slice | list[int]
    images: int
    columns: list[int] | None


class PromptReadings:
    """The prompts that the rows of a run were shown, numbered in the order in which they came.

    Args:
        words: the words whose columns are recorded; None for every column.
    """

    def __init__(self, words: Sequence[str | int] | None) -> None:
        self.words = words
        self.prompts: list[tuple[Prompt, ...]] = []
        self.columns: list[list[int] | None] = []
        self._shown: tuple[Sequence[Row], list[ShownRows]] | None = None

    @classmethod
    def of_run(cls, run: Run, roles: Sequence[Role], words: Sequence[str | int] | None) -> PromptReadings:
        """Those that a run begins with. Raises WordNotInPrompt for a word that no prompt of these roles holds."""
        images = range(run.settings.images)
        by_role = [[run.prompt_of(i, role) for i in images] for role in roles]
        every = [prompt for prompts in by_role for prompt in prompts]
        for word in words or ():
            if isinstance(word, int) or not any(prompt.occurrences(word) for prompt in every):
                every[0].positions(word)  # says which words there are
        readings = cls(words)
        for prompts in by_role:
            readings.number_of(prompts, every)
        return readings

    def to_plain(self) -> dict[str, Any]:
        """Return the readings as JSON holds them."""
        prompts = [[*map(write_prompt, shown)] for shown in self.prompts]
        return {"words": self.words, "prompts": prompts, "columns": self.columns}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], images: int) -> PromptReadings:
        """Return the readings that `to_plain` wrote, of so many images. Raises ValueError and KeyError for others."""
        words = plain["words"]
        readings = cls(
            None if words is None else [own if isinstance(own, str) else whole(own) for own in listed(words)]
        )
        readings.prompts = [tuple(map(read_prompt, listed(shown))) for shown in listed(plain["prompts"])]
        readings.columns = [None if own is None else [*map(count, listed(own))] for own in listed(plain["columns"])]
        if any(len(prompts) < images for prompts in readings.prompts):
            raise ValueError(f"a reading has not one prompt for each of {images} images")
        if len(readings.columns) != len(readings.prompts):
            raise ValueError(f"{len(readings.columns)} lists of columns for {len(readings.prompts)} readings")
        return readings

    def number_of(self, prompts: Sequence[Prompt], words_of: Sequence[Prompt] | None = None) -> int:
        """The number of what all images are shown; a new one where it is new.

        Args:
            prompts: one for each image.
            words_of: the prompts in which the words are looked for; None for these alone.
        """
        shown = tuple(prompts)
        if shown not in self.prompts:  # most often the same objects as before, which are not compared in detail
            self.prompts.append(shown)
            self.columns.append(None if self.words is None else _columns_of(words_of or shown, self.words))
        return self.prompts.index(shown)

    def shown(self, rows: Sequence[Row], roles: Sequence[Role]) -> list[ShownRows]:
        """What the rows of these roles are shown; a pipeline may call its denoiser for each role separately.

        Most often the rows are those of the call before, for which it is not found again.
        """
        if self._shown is None or self._shown[0] is not rows:
            found = [self._shown_to(rows, role) for role in roles if any(row.role == role for row in rows)]
            self._shown = (rows, found)
        return self._shown[1]

    def _shown_to(self, rows: Sequence[Row], role: Role) -> ShownRows:
        own = [row.prompt for row in rows if row.role == role]
        number = self.number_of(own)
        return ShownRows(role, number, rows_of(rows, role), len(own), self.columns[number])

    def has(self, number: int, positions: Sequence[int]) -> bool:
        """Whether columns are recorded of a reading."""
        columns = self.columns[number]
        return columns is None or set(positions) <= set(columns)

    def columns_for(
        self, numbers: Iterable[int], image: int, word: str | int, occurrence: int | None, encoder: str | None
    ) -> dict[int, list[int]]:
        """In which of the recorded columns a word stands, in each of some readings that hold it.

        Raises:
            WordNotInPrompt: where none does.
            ValueError: where the word was not recorded.
        """
        found: dict[int, list[int]] = {}
        missing: WordNotInPrompt | None = None
        for number in numbers:
            prompt, columns = self.prompts[number][image], self.columns[number]
            try:
                positions = prompt.positions(word, occurrence)
            except WordNotInPrompt as error:
                missing = missing or error
                continue
            if encoder is not None:
                positions = tuple(p for p in positions if p in prompt.of(encoder))
            if not positions:
                missing = missing or WordNotInPrompt(f"{encoder} does not read {word!r} in {prompt.text!r}")
                continue
            if not self.has(number, positions):
                raise ValueError(f"{word!r} was not recorded: only the words {self.words} were")
            found[number] = list(positions) if columns is None else [columns.index(p) for p in positions]
        if missing is not None and not found:
            raise missing
        return found

    def recorded(self, number: int, image: int) -> list[str]:
        """The words of one image's prompt in a reading that are recorded; none where they are not known."""
        prompt = self.prompts[number][image]
        try:
            return [word for word in prompt.words if self.has(number, prompt.positions(word))]
        except WordNotInPrompt:
            return []


def _columns_of(prompts: Sequence[Prompt], words: Sequence[str | int]) -> list[int]:
    """The positions of words in the prompts that hold them."""
    found: set[int] = set()
    for word in words:
        for prompt in prompts:
            try:
                found.update(prompt.positions(word))
            except WordNotInPrompt:
                continue
    return sorted(found)
