"""`Comparison`: where two runs part and how far they are apart: in words, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL.Image import Image

from sdprobe.core.data_frame import data_frame
from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.short_repr import short_repr
from sdprobe.plot import colored
from sdprobe.plot.notebook import as_figures
from sdprobe.plot.table import Rows, as_html, as_text
from sdprobe.plot.tiled import tiled_pictures
from sdprobe.runs.comparison.compared_pictures import Shown, frame_differences, frames_shown, joined, pictures_in
from sdprobe.runs.comparison.comparison_figure import draw_comparison
from sdprobe.runs.comparison.distances import Distance
from sdprobe.runs.comparison.parting import Parting, find_parting, place_of, point_of

AFTER_THE_STEPS = ("final latents", "picture")


class SharedWords(NamedTuple):
    """The words of both prompts of an image, and those of only one of them."""

    both: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @classmethod
    def of(cls, a: Prompt, b: Prompt) -> SharedWords:
        """Return those of two prompts; none where the words of one are not known."""
        try:
            first, second = list(a.words), list(b.words)
        except WordNotInPrompt:
            return cls((), (), ())
        return cls(
            tuple(word for word in first if word in second),
            tuple(word for word in first if word not in second),
            tuple(word for word in second if word not in first),
        )


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What `sdprobe.compare` found. Print it, or return it in a notebook cell.

    >>> import sdprobe
    >>> recorder = sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised"))
    >>> a, b = (
    ...     sdprobe.sample(sdprobe.load(), "a red circle", hooks=[recorder], steps=3, seed=seed, progress=False)
    ...     for seed in (0, 1)
    ... )
    >>> comparison = sdprobe.compare(a, b)
    >>> print(comparison)
    part at step 0, at latents (distance 1.4); before it nothing was compared
    a: Run('a red circle', 1 image of 64×64, 3 steps of DDIMScheduler, guidance 7.5, seed 0)
    b: Run('a red circle', 1 image of 64×64, 3 steps of DDIMScheduler, guidance 7.5, seed 1)
    differs  a  b
    seed     0  1
    compared       values  equal  largest distance
    latents        3       0      1.4, at step 0
    noise_pred     3       0      ...
    ...
    not compared, or not in full:
      attention: recorded by neither; record both runs with AttentionMaps(keep=('step', 'layer'))
      ...
    >>> first = comparison.table[0]
    >>> first.quantity, first.step, first.image, round(first.distance, 1), first.verdict
    ('latents', 0, 0, 1.4, 'different')
    >>> comparison.difference().size
    (64, 64)

    Attributes:
        parted: where the runs part, in one line.
        settings: what differs in how they were made, by name, each as the two values; also their models, transforms and
            the step at which they were resumed.
        table: a `Distance` for each value that was compared, in the order of the loop: of each quantity, step, site,
            image, role and word.
        words: for each image, the words of both prompts, of only that of a, and of only that of b.
        pictures: for each image, the two pictures, of videos the frames of both; None for one that there is not.
        notes: what was left out and why, and what to record.
        runs: the repr of both runs.
    """

    runs: tuple[str, str]
    settings: Mapping[str, tuple[Any, Any]]
    table: tuple[Distance, ...]
    words: tuple[SharedWords, ...]
    pictures: tuple[tuple[Shown, Shown], ...]
    notes: tuple[str, ...]
    sites: Mapping[str, int] = field(repr=False)

    @cached_property
    def parting(self) -> Parting:
        """Where the runs part: the outcome, the first value that differs, and what was before it."""
        return find_parting(self.table, self.sites)

    def parting_of(self, image: int) -> Parting:
        """Return where one image parts. Raises ValueError for an image that the runs do not share."""
        self._check(image)
        return find_parting([own for own in self.table if own.image == image], self.sites)

    @property
    def parted(self) -> str:
        text = self.parting.text
        return f"{text} in all that both recorded: {', '.join(self._quantities)}" if self._is_equal else text

    def difference(self, image: int = 0) -> Image | None:
        """Return the absolute difference of the two pictures of an image, averaged over the colours: black is 0.

        None where one of them is missing, or they are of other sizes. The brightest colour is the largest difference.
        Of videos, frames stand side by side: at most 16, evenly chosen, and that with the largest difference.
        """
        values = self.pixel_difference(image)
        return None if values is None else colored(values / max(values.max(), 1e-12))

    def pixel_difference(self, image: int = 0) -> np.ndarray | None:
        """Return the absolute difference of the two pictures, averaged over the colours: ``[h, w]`` in [0, 1].

        Of videos, frames stand side by side, as in `difference`.
        """
        self._check(image)
        return self._shown(image)[2]

    def figure(self, image: int = 0) -> Figure:
        """Plot one image: both pictures and their difference; distances over the steps; attention by site.

        Raises ValueError for an image that the runs do not share.
        """
        self._check(image)
        a, b, difference = self._shown(image)
        return draw_comparison(
            (a, b),
            difference,
            [own for own in self.table if own.image == image],
            self.parting_of(image),
            list(self.sites),
        )

    def to_pandas(self) -> Any:
        """Return the table as a data frame of pandas, a row for each `Distance`.

        Raises ImportError if pandas is not installed.
        """
        columns = zip(*self.table, strict=True) if self.table else [()] * len(Distance._fields)
        frame = data_frame(dict(zip(Distance._fields, map(list, columns), strict=True)))
        return frame.astype({"step": "Int64"})  # which has a value for none, as a number has not

    @property
    def _is_equal(self) -> bool:
        return self.parting.outcome == "equal"

    @property
    def _quantities(self) -> list[str]:
        return list(dict.fromkeys(own.quantity for own in self.table))

    def _shown(self, image: int) -> tuple[Image | None, Image | None, np.ndarray | None]:
        """Return both pictures and their difference; of videos, some frames of each side by side."""
        differences = frame_differences(*self.pictures[image])
        both = []
        for own in map(pictures_in, self.pictures[image]):
            chosen = frames_shown(len(own), differences)
            both.append(tiled_pictures([own[i] for i in chosen]) if own else None)
        return both[0], both[1], None if differences is None else joined(differences, chosen)

    def _check(self, image: int) -> None:
        if not 0 <= image < len(self.pictures):
            raise ValueError(f"image {image} is not among the {len(self.pictures)} of both runs, counted from 0")

    def _lines(self) -> Rows:
        found = [("compared", "values", "equal", "largest distance")]
        for quantity in self._quantities:
            own = [value for value in self.table if value.quantity == quantity]
            equal = sum(value.verdict == "equal" for value in own)
            most = max(own, key=lambda value: value.distance)
            where = place_of(most) if most.step is not None else ""
            detail = point_of(most)[3:].removeprefix(quantity).strip()
            said = ", ".join(part for part in (f"{most.distance:.2g}", where, detail) if part)
            found.append((quantity, str(len(own)), str(equal), said if most.distance else "0"))
        return found

    def _differing(self) -> Rows:
        rows = [(name, short_repr(a), short_repr(b)) for name, (a, b) in self.settings.items()]
        return [("differs", "a", "b"), *rows]

    def _words(self) -> list[str]:
        found = []
        for image, own in enumerate(self.words):
            of = f" (image {image})" if len(self.words) > 1 else ""
            for side, words in (("a", own.only_a), ("b", own.only_b)):
                if words:
                    found.append(f"words of {side} only{of}: {', '.join(words)}")
        return found

    def __str__(self) -> str:
        lines = [self._heading(), f"a: {self.runs[0]}", f"b: {self.runs[1]}"]
        lines += as_text(self._differing()) if self.settings else ["no setting differs"]
        lines += self._words() + (as_text(self._lines()) if self.table else [])
        if self.notes:
            lines += ["not compared, or not in full:", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines)

    def _heading(self) -> str:
        """Where they part; and first, whether nothing of the steps was compared."""
        if set(self._quantities) <= set(AFTER_THE_STEPS) and self.table:
            what = " and ".join({"picture": "pictures"}.get(own, own) for own in self._quantities)
            return f"nothing but {what} was compared: {self.parted}"
        return self.parted

    def __repr__(self) -> str:
        return f"Comparison({self._heading()})"

    def _repr_html_(self) -> str:
        shown = []
        for image, own in enumerate(self.pictures):
            kind = "video" if any(isinstance(side, tuple) for side in own) else "image"
            of = f"{kind} {image}" if len(self.pictures) > 1 else kind
            a, b, _ = self._shown(image)
            triple = ((a, f"{of} of a"), (b, f"{of} of b"), (self.difference(image), "their difference"))
            there = [(picture, said) for picture, said in triple if picture is not None]
            shown.append(as_figures([picture for picture, _ in there], [said for _, said in there]))
        tables = [as_html(self._differing(), self._heading()), as_html(self._lines(), "distances")]
        notes = as_html([("not compared, or not in full",), *((note,) for note in (*self._words(), *self.notes))], "")
        return "".join([*shown, *tables, notes])
