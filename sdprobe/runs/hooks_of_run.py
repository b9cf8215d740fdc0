"""`hooks_of_run`: each hook that a run was given, with its limits, its record, and the images that it was given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sdprobe.core.hook import Transform
from sdprobe.core.hook_configuration import HookDescription, describe
from sdprobe.core.limits.limited_hook import LimitedHook
from sdprobe.core.limits.row_subset import rows_of_run
from sdprobe.core.run import Run
from sdprobe.runs.saved.open_run import SavedRun
from sdprobe.runs.saved.saved_hook import SavedHook


@dataclass(frozen=True)
class HookOfRun:
    """A hook that a run was given.

    Args:
        given: the hook with its limits, as it was given; a description of it in a saved run. Its repr says what it is.
        live: the run's copy of the hook inside the limits, which has the records; None in a saved run whose folder
            holds none of it, or whose class no installed package registers.
        images: the numbers in the run of the images that it was given, in its own order.
        names: the names under which the run is asked for it, other than its class.
        transforms: whether it is a transform; None if that is not known.
    """

    given: Any
    live: Any = field(repr=False)
    images: tuple[int, ...]
    names: tuple[str, ...]
    transforms: bool | None

    def place_of(self, image: int, count: int | None = None) -> int | None:
        """Return the number in the record of an image of the run; None if it is not of this image.

        Args:
            image: the number in the run.
            count: how many images the record has, where it shows that.
        """
        place = self.images.index(image) if image in self.images else None
        return None if place is None or (count is not None and place >= count) else place

    @property
    def description(self) -> HookDescription:
        """The hook with its limits, as a file describes it."""
        return self.given.description if isinstance(self.given, SavedHook) else describe(self.given)


def hooks_of_run(run: Run) -> list[HookOfRun]:
    """Return the hooks of a run in the order in which they were given; of a live run or a saved one.

    >>> import sdprobe
    >>> late = sdprobe.only(sdprobe.Statistics(), steps=[1])
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[late], steps=2, seed=0, progress=False)
    >>> [(own.given, own.live.indices, own.images) for own in hooks_of_run(run)]
    [(only(Statistics(), steps=[1]), [1], (0,))]
    """
    return list(_saved(run) if isinstance(run, SavedRun) else _live(run))


def _live(run: Run) -> Iterator[HookOfRun]:
    limited = {id(live.inner): (given, live) for given, live in run.records if isinstance(live, LimitedHook)}
    for given, live in run.records:
        if isinstance(live, LimitedHook):
            continue
        outer, around = limited.get(id(live), (given, live))
        names = tuple(name for name, own in run.names.items() if own is outer)
        yield HookOfRun(outer, live, images_of(run, around), names, isinstance(live, Transform))


def images_of(run: Run, hook: Any) -> tuple[int, ...]:
    """Return the images of a run that a hook is given, which may be limited to some."""
    if not (isinstance(hook, LimitedHook) and hook.by_rows):
        return tuple(range(run.settings.images))
    return tuple(sorted({row.image for row in rows_of_run(run) if hook.includes_row(row)}))


def _saved(run: SavedRun) -> Iterator[HookOfRun]:
    around = {own.inner: own for own in run.hooks if own.inner is not None}
    for number, own in enumerate(run.hooks):
        if own.inner is not None:
            continue
        kind = own.kind
        try:
            live = run.record_of(own)
        except KeyError:  # its class is not known here, or its records could not be saved
            live = None
        images = tuple(range(run.settings.images)) if own.images is None else own.images
        transforms = None if kind is None else issubclass(kind, Transform)
        outer = around.get(number, own)
        yield HookOfRun(outer, live, images, outer.asked_as, transforms)
