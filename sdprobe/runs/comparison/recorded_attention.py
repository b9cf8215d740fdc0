"""The attention of a run at what two runs kept apart: per step and layer, or summed over what one summed over.

Of `AttentionRecorder` see `recorded_probabilities`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.prompt import WordNotInPrompt
from sdprobe.core.run import Run
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.attention_sums import Key
from sdprobe.runs.comparison.recorded_probabilities import RecordedProbabilities, SummedProbabilities, probabilities_of
from sdprobe.runs.comparison.recorded_values import records_of
from sdprobe.runs.comparison.where import Where


class RecordedAttention:
    """The maps of one `AttentionMaps`, with the numbers that its images have in the whole run."""

    def __init__(self, maps: AttentionMaps, images: Sequence[int]) -> None:
        self.maps, self.images = maps, tuple(images)

    @property
    def apart(self) -> frozenset[str]:
        """What was kept apart, of ``"step"``, ``"layer"`` and ``"head"``."""
        return frozenset(self.maps.sums.apart)

    @property
    def steps(self) -> list[int | None]:
        """The steps of which it kept sums by themselves; None for sums over steps."""
        return [key.step for key in self.maps.sums]

    @property
    def layers(self) -> list[str]:
        """The sites of which it recorded something by themselves, in the order in which they came."""
        return list(dict.fromkeys(key.layer for key in self.maps.sums if key.layer is not None))

    def places(self, apart: frozenset[str]) -> dict[Where, list[Key]]:
        """Return the sums to add up for each place, where only this is kept apart."""
        found: dict[Where, list[Key]] = {}
        for key in self.maps.sums:
            step = key.step if "step" in apart else None
            layer = key.layer if "layer" in apart else None
            found.setdefault(Where(key.role, step, layer, key.grid), []).append(key)
        return found

    def summed(self, where: Where, keys: Sequence[Key]) -> SummedAttention:
        """Return the sums of a place, each of its prompts apart."""
        totals: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        for key in keys:
            total = self.maps.sums[key].detach().cpu().to(torch.float64).mean(1)
            totals[key.reading] = totals[key.reading] + total if key.reading in totals else total
            counts[key.reading] = counts.get(key.reading, 0) + self.maps.sums.counts[key]
        return SummedAttention(self, totals, counts, self.maps.sums[keys[0]].dtype)


class SummedAttention:
    """The attention at one place, averaged over the heads.

    Attributes:
        count: of how many calls it is.
        dtype: in which it was kept.
        images: the numbers of the images.
    """

    def __init__(
        self,
        of: RecordedAttention,
        totals: Mapping[int, Float[Tensor, "images positions tokens"]],
        counts: Mapping[int, int],
        dtype: torch.dtype,
    ) -> None:
        self.of, self.totals, self.counts, self.dtype = of, totals, counts, dtype
        self.count, self.images = sum(counts.values()), of.images

    def words(self, image: int) -> list[str]:
        """Return the recorded words of an image, of all the prompts that it was shown."""
        at, readings = self.of.images.index(image), self.of.maps.readings
        return list(dict.fromkeys(word for reading in self.totals for word in readings.recorded(reading, at)))

    def map_of(self, word: str, image: int) -> Float[Tensor, " positions"]:
        """Return the mean attention to a word: over its tokens, heads and calls."""
        at, readings = self.of.images.index(image), self.of.maps.readings
        parts = []
        for reading in self.totals:
            try:
                columns = readings.columns_for([reading], at, word, None, None)[reading]
            except WordNotInPrompt:
                continue
            parts.append((self.totals[reading][at][:, columns].mean(-1), self.counts[reading]))
        return torch.stack([total for total, _ in parts]).sum(0) / sum(count for _, count in parts)

    def whole(self, image: int) -> tuple[object, Float[Tensor, "positions tokens"]] | None:
        """Return the mean attention to all recorded tokens, and which they are; None where the prompts are several."""
        if len(self.totals) != 1:
            return None
        ((reading, total),) = self.totals.items()
        columns = self.of.maps.readings.columns[reading]
        named = total.shape[-1] if columns is None else tuple(columns)
        return named, total[self.of.images.index(image)] / self.count


Recorded = RecordedAttention | RecordedProbabilities
Summed = SummedAttention | SummedProbabilities


def attention_of(run: Run) -> list[Recorded]:
    """Return what each `AttentionMaps` and each `AttentionRecorder` of a run recorded."""
    sums = [RecordedAttention(maps, images) for maps, images in records_of(run, AttentionMaps) if len(maps.sums)]
    return [*sums, *probabilities_of(run)]
