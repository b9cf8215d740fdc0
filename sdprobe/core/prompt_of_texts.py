"""A prompt of which a pipeline's text encoders are given different texts: ``prompt``, ``prompt_2``, ``prompt_3``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sdprobe.core.prompt import Prompt


@dataclass(frozen=True)
class PromptOfTexts(Prompt):
    """A prompt as the denoiser is shown it where its encoders read different texts.

    A word stands where the encoders that read it have it, and nowhere else. Encoders that share their places, as those
    of Stable Diffusion XL, may each have a word at the same place: then both words stand there. ``text`` names every
    text that is read into tokens, once; ``ids``, ``tokens`` and ``roles`` are of the first encoder at each place.

    Args:
        texts: what each encoder is given, those included that give one vector for the whole prompt.
        readings: how each text is read, and the place of its first token.
    """

    texts: Mapping[str, str] = field(default_factory=dict, hash=False)
    readings: tuple[tuple[int, Prompt], ...] = field(default=(), repr=False)

    @classmethod
    def from_readings(cls, texts: Mapping[str, str], parts: Sequence[Mapping[str, Prompt]]) -> PromptOfTexts:
        """The prompt of readings that stand one after the other, by the names of their encoders.

        Args:
            texts: what each encoder is given.
            parts: at each part of the axis of tokens, how each of its encoders reads its text.
        """
        readings: list[tuple[int, Prompt]] = []
        places: dict[str, range] = {}
        first: list[Prompt] = []
        start = 0
        for part in parts:
            own = list(part.values())
            different = {reading.text: reading for reading in reversed(own)}
            readings += [(start, reading) for reading in reversed(different.values())]
            places |= {name: range(start, start + len(reading.ids)) for name, reading in part.items()}
            start += len(own[0].ids)
            first.append(own[0])
        words: dict[str, tuple[tuple[int, ...], ...]] = {}
        for start, reading in readings:
            for word, found in reading.words.items():
                moved = _moved(found, start)
                words[word] = (*words.get(word, ()), *(p for p in moved if p not in words.get(word, ())))
        return cls(
            text=" | ".join(dict.fromkeys(reading.text for _, reading in readings)),
            ids=tuple(number for reading in first for number in reading.ids),
            tokens=tuple(token for reading in first for token in reading.tokens),
            words=words,
            roles=tuple(role for reading in first for role in reading.roles),
            parts=places,
            texts=dict(texts),
            readings=tuple(readings),
        )

    def occurrences(self, word: str) -> tuple[tuple[int, ...], ...]:
        moved = (_moved(reading.occurrences(word), start) for start, reading in self.readings)
        return tuple(dict.fromkeys(positions for found in moved for positions in found))

    def text_for(self, encoder: str) -> str:
        return self.texts[encoder]

    @property
    def cut(self) -> tuple[str, ...]:
        """The words past the end of the context, of every text."""
        return tuple(dict.fromkeys(word for _, reading in self.readings for word in reading.cut))


def _moved(found: Sequence[tuple[int, ...]], start: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(position + start for position in positions) for positions in found)
