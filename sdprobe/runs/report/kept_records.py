"""`records_of`: the records of a run that a report shows, each with the images that it is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.runs.hooks_of_run import hooks_of_run


@dataclass(frozen=True)
class KeptRecord:
    """A run's copy of a hook.

    Args:
        live: the copy.
        images: the numbers of the run's images, in the order in which the copy has them.
    """

    live: Any
    images: tuple[int, ...]

    def place_of(self, image: int, count: int | None = None) -> int | None:
        """Return an image's number in the record; None if it is not of this image.

        Args:
            image: the number in the run.
            count: how many images the record has, where it shows that.
        """
        place = self.images.index(image) if image in self.images else None
        return None if place is None or (count is not None and place >= count) else place


def records_of(run: Run) -> list[KeptRecord]:
    """Return the copies of all hooks of which there are records."""
    return [KeptRecord(own.live, own.images) for own in hooks_of_run(run) if own.live is not None]


def losses_of(live: Any) -> Tensor | None:
    """Return what a hook kept as ``losses``, ``[steps, images]``; None if it has none."""
    losses, indices = getattr(live, "losses", None), getattr(live, "indices", None)
    fits = isinstance(losses, Tensor) and isinstance(indices, list) and losses.ndim == 2
    return losses if fits and len(losses) == len(indices) > 0 else None  # type: ignore[arg-type]
