"""`find_parting`: the first value, in the order of the loop, in which two runs differ by more than rounding.

Rounding can grow from step to step until it is large. So a difference after others is a parting only if it is many
times as large as all that were there in the steps before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from sdprobe.runs.comparison.distances import Distance

GROWTH = 10
"""Rounding is not taken to grow by more than this from one step to the next.

Measured on the embedded model and on small random ones of two other families, it grows by a factor of less than 2.
"""

POINTS = {"latents": 0, "activation": 1, "attention": 1, "noise_pred": 2, "denoised": 3}
"""The order within a step; activations and attention are in the order of their modules."""

Outcome = Literal["nothing", "equal", "rounding", "parted", "grown"]


@dataclass(frozen=True)
class Parting:
    """Whether and where two runs part.

    Attributes:
        outcome: ``"nothing"`` was compared; all is ``"equal"``, or equal but for ``"rounding"``; they ``"parted"`` at
            one point; or rounding has ``"grown"``, point by point, to more than rounding.
        at: the first value that differs by more than rounding, or for ``"rounding"`` the first that differs at all.
        before: the largest distance before it.
        first: where no more than rounding was before it, the first value that differs at all.
        most: the value with the largest distance of all.
        is_first: whether nothing that was compared comes before it.
        images: the images that differ there.
        of: how many images were compared.
    """

    outcome: Outcome
    at: Distance | None = None
    before: float = 0.0
    first: Distance | None = None
    most: Distance | None = None
    is_first: bool = False
    images: tuple[int, ...] = ()
    of: int = 1

    @property
    def text(self) -> str:
        """It in one line."""
        if self.at is None or self.first is None or self.most is None:
            return "nothing could be compared" if self.outcome == "nothing" else "equal to the last bit"
        if self.outcome == "rounding":
            return (
                f"equal but for rounding (at most {self.most.distance:.1e}, the first {place_of(self.first)}, "
                f"{point_of(self.first)})"
            )
        if self.outcome == "grown":
            return (
                f"drift apart without a jump: rounding, the first {place_of(self.first)}, {point_of(self.first)} "
                f"(distance {self.first.distance:.1e}), is more than rounding from {place_of(self.at)[3:]} on, "
                f"{point_of(self.at)} ({self.at.distance:.1e}), and at most {self.most.distance:.2g}, "
                f"{place_of(self.most)}, {point_of(self.most)}"
            )
        before = (
            "before it nothing was compared"
            if self.is_first
            else "before it they are equal to the last bit"
            if not self.before
            else f"before it they are equal but for rounding (at most {self.before:.1e})"
        )
        where = f"{place_of(self.at)}, {point_of(self.at)}{self._in_images()}"
        return f"part {where} (distance {self.at.distance:.2g}); {before}"

    def _in_images(self) -> str:
        if self.of == 1:
            return ""
        if len(self.images) == self.of:
            return " in every image"
        return f" in image{'s' * (len(self.images) != 1)} {', '.join(map(str, self.images))} of {self.of}"


def place_of(own: Distance) -> str:
    """Return when in the run a value was recorded, in words."""
    if own.step is not None:
        return f"at step {own.step}"
    return "in the sums over all steps" if own.quantity == "attention" else "outside the steps"


def point_of(own: Distance) -> str:
    """Return at which point a value was recorded, in words."""
    what = own.quantity
    if own.site:
        what += f" of {own.site}"
    if own.word:
        what += f" to {own.word!r}"
    return f"at {what}"


def loop_order(own: Distance, sites: Mapping[str, int]) -> tuple[int, int, int, int]:
    """Return where in the order of the loop a value comes.

    Args:
        own: the value.
        sites: the place of each site in the order in which the denoiser passes them.
    """
    quantity = own.quantity.removesuffix(" (statistics)")
    place = sites.get(own.site, len(sites))
    if own.step is not None:
        return 1, own.step, POINTS[quantity], place if POINTS[quantity] == 1 else 0
    if quantity == "activation":
        return (0 if own.site.startswith("text_encoder") else 4), 0, 0, place
    return {"attention": 2, "final latents": 3, "picture": 5}[quantity], 0, 0, place if quantity == "attention" else 0


def find_parting(values: Sequence[Distance], sites: Mapping[str, int]) -> Parting:
    """Return whether and where two runs part.

    A point where they part is the first at which a distance is more than rounding, and more than `GROWTH` times all
    distances in the steps before and all rounding before it in its own step.

    Of attention, the words decide only where the attention to all tokens together was not compared.

    Args:
        values: what was compared, in the order of the loop.
        sites: the place of each site in the order in which the denoiser passes them.
    """
    whole = {_place(own) for own in values if own.quantity == "attention" and not own.word}
    values = [own for own in values if not own.word or _place(own) not in whole]
    if not values:
        return Parting("nothing")
    differ = [own for own in values if own.verdict != "equal"]
    if not differ:
        return Parting("equal")
    most = max((own for own in differ if own.quantity != "picture"), key=_distance, default=differ[0])
    first, points = differ[0], list(_points(values, sites))
    earlier = within = 0.0
    step: object = None
    for number, (order, point) in enumerate(points):
        if order[:2] != step:
            step, earlier = order[:2], max(earlier, within)
        # The rounding of a step can also grow within it, from one module to another.
        beyond = [
            own
            for own in point
            if own.verdict == "different" and own.distance > GROWTH * max(earlier, min(within, own.limit))
        ]
        if beyond:
            at = max(beyond, key=_distance)
            before = max((own.distance for _, past in points[:number] for own in past), default=0.0)
            images = tuple(sorted({own.image for own in beyond}))
            of = len({own.image for own in values})
            return Parting("parted", at, before, first, most, number == 0, images, of)
        within = max(within, *(own.distance for own in point))
    grown = next((own for own in differ if own.verdict == "different"), None)
    return Parting("rounding" if grown is None else "grown", grown or first, 0.0, first, most)


def _points(values: Sequence[Distance], sites: Mapping[str, int]) -> Iterator[tuple[tuple[int, ...], list[Distance]]]:
    for (order, _, _), own in groupby(values, lambda own: (loop_order(own, sites), own.quantity, own.site)):
        yield order, list(own)


def _place(own: Distance) -> tuple[object, ...]:
    return own.step, own.site, own.image, own.role


def _distance(own: Distance) -> float:
    return own.distance
