"""`Film`: the pictures of x_t and predicted x0 that a `Preview` kept, for each image of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.preview import Preview
from sdprobe.plot.tiled import tiled_pictures
from sdprobe.runs.hooks_of_run import HookOfRun
from sdprobe.runs.report.embedded_pictures import EmbeddedPictures, embedded, least_size
from sdprobe.runs.report.word_maps_of_run import thinned

NAMES = {"latents": "x_t, the noisy latents", "denoised": "Predicted x0"}

HOW = "To have it, add sdprobe.Preview() to the hooks of the run."


@dataclass(frozen=True)
class Strip:
    """The pictures of one kind, step by step.

    Args:
        name: ``"latents"`` or ``"denoised"``.
        title: what they are.
        sources: a data address for each step.
    """

    name: str
    title: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Film:
    """What one `Preview` kept of one image.

    Args:
        hook: its repr.
        indices: the numbers of the steps shown.
        total: how many steps the run has.
        size: width and height of a picture, as it was kept.
        strips: of x_t, predicted x0, or both.
        said: what was left out or changed, in words.
    """

    hook: str
    indices: tuple[int, ...]
    total: int
    size: tuple[int, int]
    strips: tuple[Strip, ...]
    said: str


def films_of(records: Sequence[HookOfRun], images: int, budget: int) -> tuple[list[tuple[Film, ...]], str]:
    """Return the films of each image, and why there is none, in words; empty if there is one.

    Args:
        records: of a run.
        images: how many images it has.
        budget: the bytes that all films may take in the page.
    """
    previews = [own for own in records if isinstance(own.live, Preview) and own.live.indices and own.live.keep]
    found: list[list[Film]] = [[] for _ in range(images)]
    for record in previews:
        for image in range(images):
            place = record.place_of(image, len(record.live[record.live.keep[0]][0]) // record.live.frames)
            if place is not None:
                found[image].append(_film(record.live, place, budget / len(previews) / images))
    return [tuple(films) for films in found], "" if previews else _why_none(records)


def _film(preview: Preview, image: int, budget: float) -> Film:
    every: dict[str, list[Image]] = {
        name: [tiled_pictures(preview.of_image(own, image)) for own in preview[name]] for name in preview.keep
    }
    middle = len(preview.indices) // 2
    most = int(budget / sum(least_size(pictures[middle]) for pictures in every.values()))
    numbers = thinned(range(len(preview.indices)), min(len(preview.indices), max(most, 2)))
    kept = _embedded(every, numbers, budget)
    while sum(own.size for own in kept.values()) > budget and len(numbers) > 2:
        numbers = thinned(range(len(preview.indices)), max(2, len(numbers) * 9 // 10))
        kept = _embedded(every, numbers, budget)
    first = every[preview.keep[0]][0]
    said = []
    if preview.frames > 1:
        width, height = preview.of_image(preview[preview.keep[0]][0], image)[0].size
        said.append(f"In each, the {preview.frames} frames of {width}×{height} pixels are side by side, row by row.")
    if len(numbers) < len(preview.indices):
        said.append(
            f"{len(numbers)} of the {len(preview.indices)} steps kept, evenly chosen: all would make this file too "
            f"large."
        )
    if changed := next((own.changed for own in kept.values() if own.changed), ""):
        said.append(f"The pictures are embedded {changed}.")
    if missing := [NAMES[name] for name in NAMES if name not in preview.keep]:
        said.append(f"Not kept: {', '.join(missing)}.")
    return Film(
        repr(preview),
        tuple(preview.indices[number] for number in numbers),
        preview.total,
        first.size,
        tuple(Strip(name, NAMES[name], kept[name].sources) for name in NAMES if name in kept),
        " ".join(said),
    )


def _embedded(every: dict[str, list[Image]], numbers: Sequence[int], budget: float) -> dict[str, EmbeddedPictures]:
    share = int(budget / len(every))
    return {name: embedded([pictures[number] for number in numbers], share) for name, pictures in every.items()}


def _why_none(records: Sequence[HookOfRun]) -> str:
    if any(isinstance(own.live, Preview) for own in records):
        return "There is no film: Preview recorded no step."
    if any(isinstance(own.live, LatentRecorder) for own in records):
        return (
            "There is no film: LatentRecorder kept the latents, but only the model can make pictures of them, and "
            f"Preview was not among the hooks. {HOW}"
        )
    return f"There is no film: Preview was not among the hooks. {HOW}"
