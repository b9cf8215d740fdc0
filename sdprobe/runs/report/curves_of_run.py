"""`curves_of`: the curves of an image: what `Statistics` measured, and the losses of guiding hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdprobe.observe.statistics import Moments, Statistics
from sdprobe.runs.hooks_of_run import HookOfRun
from sdprobe.runs.report.curve_panels import CurvePanel, curve_panel

LINES = {"latents": "x_t", "noise_pred": "guided noise", "denoised": "predicted x0"}
MOMENTS = {"mean": "Mean", "std": "Standard deviation", "norm": "Norm"}


@dataclass(frozen=True)
class CurveGroup:
    """The diagrams of one hook, and their numbers.

    Args:
        hook: its repr.
        indices: the numbers of the steps.
        panels: the diagrams.
        said: what is missing, in words.
    """

    hook: str
    indices: tuple[int, ...]
    panels: tuple[CurvePanel, ...]
    said: str = ""

    @property
    def names(self) -> list[str]:
        """The names of the lines, for a legend; empty where every diagram has one line."""
        most = max((panel.curves for panel in self.panels), key=len, default=())
        return [curve.name for curve in most] if len(most) > 1 else []

    @property
    def columns(self) -> list[tuple[str, tuple[float, ...]]]:
        """The columns of their table."""
        return [
            (f"{panel.title}, {curve.name}" if len(panel.curves) > 1 else panel.title, curve.values)
            for panel in self.panels
            for curve in panel.curves
        ]


def curves_of(records: Sequence[HookOfRun], image: int) -> tuple[CurveGroup, ...]:
    """Return the curves of an image."""
    found = []
    for record in records:
        if isinstance(record.live, Statistics):
            found.append(_statistics(record, image))
        elif (losses := _losses_of(record.live)) is not None:
            found.append(_losses(record, losses, image))
    return tuple(found)


def _losses_of(live: Any) -> Tensor | None:
    """Return what a hook kept as ``losses``, ``[steps, images]``; None if it has none."""
    losses, indices = getattr(live, "losses", None), getattr(live, "indices", None)
    fits = isinstance(losses, Tensor) and isinstance(indices, list) and losses.ndim == 2
    return losses if fits and len(losses) == len(indices) > 0 else None  # type: ignore[arg-type]


def _statistics(record: HookOfRun, image: int) -> CurveGroup:
    own: Statistics = record.live
    if not own.indices:
        return CurveGroup(repr(own), (), (), "Nothing was recorded: no step came to its end.")
    place = record.place_of(image, own.cosine.shape[1])
    if place is None:
        return _not_of_image(own)
    panels = [
        curve_panel(
            title,
            own.indices,
            {line: _column(getattr(_moments(own, name), moment), place) for name, line in LINES.items()},
            "No value is finite.",
        )
        for moment, title in MOMENTS.items()
    ]
    cosine = curve_panel(
        "Cosine",
        own.indices,
        {"of the denoiser’s output with and without the prompt": _column(own.cosine, place)},
        "There is no cosine: without guidance, the denoiser runs only with the prompt.",
    )
    return CurveGroup(repr(own), tuple(own.indices), (*panels, cosine))


def _losses(record: HookOfRun, losses: Tensor, image: int) -> CurveGroup:
    own, place = record.live, record.place_of(image, losses.shape[1])
    if place is None:
        return _not_of_image(own)
    panel = curve_panel("Loss", own.indices, {"loss": _column(losses, place)}, "No loss is finite.")
    return CurveGroup(repr(own), tuple(own.indices), (panel,))


def _moments(own: Statistics, name: Any) -> Moments:
    return own[name]


def _column(values: Tensor, image: int) -> list[float]:
    column: list[float] = values[:, image].float().tolist()
    return column


def _not_of_image(own: object) -> CurveGroup:
    return CurveGroup(repr(own), (), (), "It did not record this image, or it is not known which images it recorded.")
