"""Which prompts a recording is of, where they change within a run.

A callback of an attached pipeline may give it another prompt from some step on. What was recorded of the columns then
belongs to the prompt that was shown in those steps, and to no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.run import Role, Row, Run, rows_of
from sdprobe.core.written_prompt import read_prompt, write_prompt
from sdprobe.core.written_values import count, listed, whole
from sdprobe.observe.token_labels import TokenLabels


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
        labels: names of tokens, beside the words of the prompts that the run begins with.
    """

    def __init__(self, words: Sequence[str | int] | None, labels: TokenLabels | None = None) -> None:
        self.words, self.labels = words, labels
        self.begun_with = 0  # how many readings the labels are of; they say nothing of what a callback gives
        self.prompts: list[tuple[Prompt, ...]] = []
        self.columns: list[list[int] | None] = []
        self._shown: tuple[Sequence[Row], list[ShownRows]] | None = None

    @classmethod
    def of_run(
        cls,
        run: Run,
        roles: Sequence[Role],
        words: Sequence[str | int] | None,
        labels: TokenLabels | None = None,
    ) -> PromptReadings:
        """Those that a run begins with.

        Raises:
            WordNotInPrompt: for a word that no prompt of these roles holds.
            ValueError: for labels that do not fit these prompts.
        """
        images = range(run.settings.images)
        by_role = [[run.prompt_of(i, role) for i in images] for role in roles]
        every = [prompt for prompts in by_role for prompt in prompts]
        if labels is not None:
            for prompt in every:
                labels.refuse_unfit(prompt)
        for word in words or ():
            if labels is not None and word in labels:
                continue
            if isinstance(word, int) or not any(prompt.occurrences(word) for prompt in every):
                every[0].positions(word)  # says which words there are
        readings = cls(words, labels)
        for prompts in by_role:
            readings.number_of(prompts, every)
        readings.begun_with = len(readings.prompts)
        return readings

    def to_plain(self) -> dict[str, Any]:
        """Return the readings as JSON holds them."""
        prompts = [[*map(write_prompt, shown)] for shown in self.prompts]
        plain = {"words": self.words, "prompts": prompts, "columns": self.columns}
        if self.labels is None:
            return plain
        return {**plain, "labels": self.labels.to_plain(), "begun_with": self.begun_with}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], images: int) -> PromptReadings:
        """Return the readings that `to_plain` wrote, of so many images. Raises ValueError and KeyError for others."""
        words = plain["words"]
        readings = cls(
            None if words is None else [own if isinstance(own, str) else whole(own) for own in listed(words)]
        )
        readings.prompts = [tuple(map(read_prompt, listed(shown))) for shown in listed(plain["prompts"])]
        readings.columns = [None if own is None else [*map(count, listed(own))] for own in listed(plain["columns"])]
        if plain.get("labels") is not None:
            readings.labels = TokenLabels.from_plain(plain["labels"])
            readings.begun_with = count(plain["begun_with"], len(readings.prompts))
            for prompts in readings.prompts[: readings.begun_with]:
                for prompt in prompts:
                    readings.labels.refuse_unfit(prompt)
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
            self.columns.append(self._columns_of(words_of, shown))
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
                positions = self._positions(number, image, word, occurrence)
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
        """The words and labels of one image's prompt in a reading that are recorded, as far as they are known."""
        labels = self._labels_of(number)
        known = dict.fromkeys(labels.words if labels is not None else ())
        with suppress(WordNotInPrompt):
            known = dict.fromkeys(self.prompts[number][image].words) | known
        return [word for word in known if self.has(number, self._positions(number, image, word, None))]

    def _positions(self, number: int, image: int, word: str | int, occurrence: int | None) -> tuple[int, ...]:
        labels = self._labels_of(number)
        if labels is not None and word in labels:
            return labels.positions(str(word), occurrence)
        try:
            return self.prompts[number][image].positions(word, occurrence)
        except WordNotInPrompt as error:
            if labels is None or isinstance(word, int):
                raise
            raise WordNotInPrompt(f"{error}. No token has the label {word!r}; the labels are {labels}") from None

    def _labels_of(self, number: int) -> TokenLabels | None:
        return self.labels if number < self.begun_with else None

    def _columns_of(self, begins: Sequence[Prompt] | None, shown: Sequence[Prompt]) -> list[int] | None:
        """The positions of the words in the prompts that hold them; None where every column is recorded.

        Args:
            begins: the prompts that the run begins with, of which the labels are; None for others.
            shown: the prompts that are shown.
        """
        if self.words is None:
            return None
        found: set[int] = set()
        for word in self.words:
            if begins is not None and self.labels is not None and word in self.labels:
                found.update(self.labels.positions(str(word)))
                continue
            for prompt in begins or shown:
                with suppress(WordNotInPrompt):
                    found.update(prompt.positions(word))
        return sorted(found)
