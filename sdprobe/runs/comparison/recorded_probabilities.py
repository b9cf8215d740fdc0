"""The attention that `AttentionRecorder` kept whole, at what two runs kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.activations.form import RowLabel
from sdprobe.core.activations.record import ActivationKey, ActivationRecord
from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.run import Run
from sdprobe.core.written_prompt import read_prompt
from sdprobe.core.written_values import mapping
from sdprobe.observe.attention_recorder import AttentionRecorder
from sdprobe.runs.comparison.recorded_values import records_of
from sdprobe.runs.comparison.where import Where

AXES = ("rows", "heads", "queries", "keys")
Cell = tuple[int | None, ActivationKey]


class RecordedProbabilities:
    """What one `AttentionRecorder` kept; its rows have the numbers of the whole run."""

    apart = frozenset({"step", "layer", "head"})

    def __init__(self, record: ActivationRecord) -> None:
        self.record = record

    @property
    def steps(self) -> list[int | None]:
        """The steps of which it kept something."""
        return self.record.indices

    @property
    def layers(self) -> list[str]:
        """The sites of which it kept something, in the order in which they came."""
        return list(dict.fromkeys(key.name for key in self.record.keys))

    def places(self, apart: frozenset[str]) -> dict[Where, list[Cell]]:
        """Return the tensors to add up for each place, where only this is kept apart."""
        found: dict[Where, list[Cell]] = {}
        for index in self.record.indices:
            for key, form in self.record.forms(index).items():
                if form.axes != AXES:  # in the folder of somebody else
                    continue
                step = index if "step" in apart else None
                layer = key.name if "layer" in apart else None
                for role in dict.fromkeys(row.role for row in form.rows):
                    found.setdefault(Where(role, step, layer, form.grid), []).append((index, key))
        return found

    def summed(self, where: Where, cells: Sequence[Cell]) -> SummedProbabilities:
        """Return the sums of a place."""
        return SummedProbabilities(self.record, where.role, cells)


class SummedProbabilities:
    """The attention at one place, averaged over the heads.

    Attributes:
        count: of how many calls it is.
        dtype: in which it was kept.
        images: the numbers of the images.
    """

    def __init__(self, record: ActivationRecord, role: str, cells: Sequence[Cell]) -> None:
        self._record = record
        self._totals: dict[int, dict[str, Tensor]] = {}
        self._labels: dict[int, RowLabel] = {}
        # A pipeline that no family knows can have several rows of an image.
        self._parts: Counter[tuple[int, str]] = Counter()
        self.count = len({(index, key.name, key.call) for index, key in cells})
        for index, key in cells:
            x = record.at(index, key)
            self.dtype = x.dtype
            for label, own in zip(record.forms(index)[key].rows, x, strict=True):
                if label.role == role:
                    mean, totals = own.to(torch.float64).mean(0), self._totals.setdefault(label.image, {})
                    totals[key.stream] = totals[key.stream] + mean if key.stream in totals else mean
                    self._labels[label.image] = label
                    self._parts[label.image, key.stream] += 1
        self.images = tuple(self._totals)

    def words(self, image: int) -> list[str]:
        """Return the words of an image's prompt, as far as they are known."""
        try:
            prompt = self._prompt(image)
            words = list(prompt.words) if "text" in self._totals[image] else []
        except (WordNotInPrompt, ValueError):  # of embeddings; or in the folder of somebody else
            return []
        return [word for word in words if max(prompt.positions(word)) < self._totals[image]["text"].shape[-1]]

    def map_of(self, word: str, image: int) -> Float[Tensor, " positions"]:
        """Return the mean attention to a word: over its tokens, heads and calls."""
        columns = list(self._prompt(image).positions(word))
        return self._totals[image]["text"][:, columns].mean(-1) / self._parts[image, "text"]

    def whole(self, image: int) -> tuple[object, Float[Tensor, "positions tokens"]]:
        """Return the mean attention to all that was kept, and what that is."""
        totals = self._totals[image]
        sizes = {name: total.shape[-1] for name, total in totals.items()}
        named = sizes["text"] if [*sizes] == ["text"] else tuple(sizes.items())
        return named, torch.cat([total / self._parts[image, name] for name, total in totals.items()], -1)

    def _prompt(self, image: int) -> Prompt:
        readings = mapping(mapping(self._record.description).get("readings", {}))
        return read_prompt(readings.get(self._labels[image].prompt))


def probabilities_of(run: Run) -> Iterator[RecordedProbabilities]:
    """Return what each `AttentionRecorder` of a run kept."""
    for own, _ in records_of(run, AttentionRecorder):
        record = getattr(own, "record", None)
        if isinstance(record, ActivationRecord) and record.indices:
            yield RecordedProbabilities(record)
