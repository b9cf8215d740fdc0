"""`PictureChange`: how far the pixels are from those of the untouched picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.measures.region import Region, mask_of, refuse_no_region


@dataclass(frozen=True)
class PictureChange:
    """The mean absolute difference to the untouched picture, over pixels and channels, 0 to 255.

    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> from sdprobe.experiments.measures import Detected, Outside
    >>> change, outside = PictureChange(Detected("circle")), PictureChange(Outside(Detected("circle")))
    >>> change.name, outside.name
    ('picture change in circle', 'picture change outside circle')
    >>> swap = {"red": [sdprobe.ReplaceToken("blue", with_="red")]}
    >>> result = experiments.experiment(
    ...     sdprobe.load(), "a blue circle", swap, [change, outside], steps=4, progress=False
    ... )
    >>> inside, around = (row["value"] for row in result.rows if row["condition"] == "red")
    >>> inside > 2 * around
    True

    Args:
        within: where; None for the whole picture.

    It returns None where the picture has no such region. Raises TypeError for what is no region.
    """

    within: Region | None = None

    def __post_init__(self) -> None:
        if self.within is not None:
            refuse_no_region(self.within)

    @property
    def name(self) -> str:
        return named_within("picture change", self.within)

    def __call__(self, run: Run, untouched: Run, case: Case) -> float | None:
        mask = mask_of(self.within, run, untouched, case)
        if mask is None:
            return None
        pixels, others = (np.asarray(own.images[0].convert("RGB"), dtype=np.float64) for own in (run, untouched))
        return float(np.abs(pixels - others)[mask.numpy()].mean())


def named_within(what: str, within: Region | None) -> str:
    """Return the name of a measure in a region."""
    if within is None:
        return what
    return f"{what} {within.name}" if within.name.startswith("outside ") else f"{what} in {within.name}"
