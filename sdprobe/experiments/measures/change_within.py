"""`ChangeWithin`: a measure of how far something is from the untouched run, in a region of the picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.measures.region import Region, mask_of, refuse_no_region


@dataclass(frozen=True)
class ChangeWithin(ABC):
    """A change within a region; None where the picture has no such region. Raises TypeError for what is no region.

    Args:
        within: where; None for the whole picture.
    """

    within: Region | None = None

    what: ClassVar[str]

    def __post_init__(self) -> None:
        if self.within is not None:
            refuse_no_region(self.within)

    @property
    def name(self) -> str:
        """What is measured, and where."""
        if self.within is None:
            return self.what
        where = self.within.name
        return f"{self.what} {where}" if where.startswith("outside ") else f"{self.what} in {where}"

    def __call__(self, run: Run, untouched: Run, case: Case) -> float | None:
        mask = mask_of(self.within, run, untouched, case)
        return None if mask is None else self.change(run, untouched, mask)

    @abstractmethod
    def change(self, run: Run, untouched: Run, mask: Bool[Tensor, "*frames h w"]) -> float:
        """Return the change where a mask at the picture's size, of a video for each of its frames, is True."""
