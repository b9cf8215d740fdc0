"""`records_of`: the records of a run that a report shows, each with the images that it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from sdprobe.core.limits.row_subset import number_in_whole
from sdprobe.core.run import Run

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class KeptRecord:
    """A run's copy of a hook.

    Args:
        live: the copy.
        images: the numbers of the run's images, in the order in which the copy has them; None if it is of all.
    """

    live: Any
    images: Sequence[int] | None

    def place_of(self, image: int, count: int | None = None) -> int | None:
        """Return an image's number in the record; None if it is not of this image, or if that is not known.

        Args:
            image: the number in the run.
            count: how many images the record has, where it shows that.
        """
        if self.images is None:
            return image if count is None or image < count else None
        return list(self.images).index(image) if image in self.images else None


def records_of(run: Run) -> list[KeptRecord]:
    """Return the copies of all hooks, without the limits around them."""
    subsets = {id(live.inner): live.subset for _, live in run.records if is_limited(live)}
    return [
        KeptRecord(live, _images_of(run, live, subsets.get(id(live))))
        for _, live in run.records
        if not is_limited(live)
    ]


def is_limited(live: Any) -> bool:
    """Whether a hook only limits the hook inside it."""
    return bool(getattr(type(live), "counts_its_calls", False))


def losses_of(live: Any) -> Tensor | None:
    """Return what a hook kept as ``losses``, ``[steps, images]``; None if it has none."""
    losses, indices = getattr(live, "losses", None), getattr(live, "indices", None)
    fits = isinstance(losses, Tensor) and isinstance(indices, list) and losses.ndim == 2
    return losses if fits and len(losses) == len(indices) > 0 else None  # type: ignore[arg-type]


def _images_of(run: Run, live: Any, subset: Any) -> Sequence[int] | None:
    if subset is not None:
        return None if subset.part is run else list(subset.images)
    part = getattr(live, "run", None)  # after unpickling, only the record itself knows of which images it is
    if isinstance(part, Run) and part.settings.images != run.settings.images:
        return [number_in_whole(part, i) for i in range(part.settings.images)]
    return None
