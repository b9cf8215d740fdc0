"""`ReportContent`: all that a report of a run shows, in the order in which it is read."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np

from sdprobe import plot
from sdprobe.core.picture_of import is_of_videos
from sdprobe.core.rows import Role
from sdprobe.core.run import Run, Settings
from sdprobe.core.run_settings import NOT_KNOWN
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.runs.hooks_of_run import HookOfRun, hooks_of_run
from sdprobe.runs.report.code_of_run import code_of
from sdprobe.runs.report.curves_of_run import CurveGroup, curves_of
from sdprobe.runs.report.embedded_pictures import embedded
from sdprobe.runs.report.film_of_run import Film, films_of
from sdprobe.runs.report.heat_tiles import HeatTiles, TileSheet
from sdprobe.runs.report.prompt_pieces import Piece, pieces_of, special_pieces, words_unknown
from sdprobe.runs.report.shown_pictures import ShownPicture, shown_pictures
from sdprobe.runs.report.word_maps_of_run import WordMaps, roles_of, word_maps

# A page of a large run stays under 15 MB: that of the rest, for a few pictures, is well under 1 MB.
PICTURE_BYTES, MAP_BYTES, FILM_BYTES = 5_000_000, 6_000_000, 3_000_000


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt as it is shown.

    Args:
        role: ``"cond"`` for the prompt, ``"uncond"`` for the negative prompt.
        title: what it is called.
        pieces: its text, and after it the special tokens.
        text_pieces: how many of the pieces are its text.
        recorded: the numbers of the pieces of which there are maps.
        said: what a reader has to know of it: words that are not read, or not known.
    """

    role: Role
    title: str
    pieces: tuple[Piece, ...]
    text_pieces: int
    recorded: frozenset[int]
    said: str


@dataclass(frozen=True)
class ShownImage:
    """One image of the run, with all that was recorded of it.

    Args:
        number: counted from 0.
        title: its number, prompt and seed.
        source: a data address; None in a run that did not come to its end.
        frames: which frames of a video are shown, in words; empty for an image.
        changed: how the embedded picture differs from the run's, in words.
        size: its width and height.
        prompts: the prompt, and the negative prompt if it was used.
        maps: of each recording and role.
        films: of each `Preview`.
        no_film: why there is none, in words.
        curves: of each recording of numbers.
    """

    number: int
    title: str
    source: str | None
    frames: str
    changed: str
    size: tuple[int, int]
    prompts: tuple[ShownPrompt, ...]
    maps: tuple[WordMaps, ...]
    films: tuple[Film, ...]
    no_film: str
    curves: tuple[CurveGroup, ...]


@dataclass(frozen=True)
class ReportContent:
    """All that a report shows.

    Args:
        title: the prompt, or how many there are.
        made: what the run made, ``"image"`` or ``"video"``.
        summary: the run in one line.
        images: each image.
        settings: names and values.
        coverage: `Run.coverage` as it prints.
        versions: packages and their versions, where the run was made.
        code: what makes the run again.
        sheets: the tiles of all heat maps.
        colours: 256 colours for the values of a tile, as base64 of their red, green and blue.
    """

    title: str
    made: str
    summary: str
    images: tuple[ShownImage, ...]
    settings: tuple[tuple[str, str], ...]
    coverage: str
    versions: tuple[tuple[str, str], ...]
    code: str
    sheets: tuple[TileSheet, ...]
    colours: str

    @property
    def shown_as(self) -> str:
        """What is looked at: ``"picture"`` or ``"video"``."""
        return "video" if self.made == "video" else "picture"


def content_of(run: Run) -> ReportContent:
    """Return what a report of a run shows."""
    records, tiles = hooks_of_run(run), HeatTiles()
    shown = shown_pictures(run, records)
    pictures = embedded([own.picture for own in shown], PICTURE_BYTES)
    films, no_film = films_of(records, run.settings.images, FILM_BYTES)
    images = []
    for image in range(run.settings.images):
        maps = _maps(run, records, image, tiles)
        images.append(
            ShownImage(
                number=image,
                title=_title(run, image),
                source=pictures.sources[image] if run.images else None,
                frames=_frames_said(shown[image]) if shown else "",
                changed=pictures.changed,
                size=shown[image].picture.size if shown else _size(run),
                prompts=tuple(_prompt(run, image, role, maps) for role in _roles(run, maps)),
                maps=maps,
                films=films[image],
                no_film=no_film,
                curves=curves_of(records, image),
            )
        )
    return ReportContent(
        title=run.settings.prompt[0] if len(run.prompts) == 1 else f"{len(run.prompts)} prompts",
        made=_made(run),
        summary=_summary(run),
        images=tuple(images),
        settings=_settings(run),
        coverage=str(run.coverage),
        versions=tuple(run.provenance.versions.items()),
        code=code_of(run),
        sheets=tuple(tiles.sheets()),
        colours=_colours(),
    )


def _maps(run: Run, records: Sequence[HookOfRun], image: int, tiles: HeatTiles) -> tuple[WordMaps, ...]:
    own = [
        (record, role) for record in records if isinstance(record.live, AttentionMaps) for role in roles_of(record.live)
    ]
    found = []
    for record, role in own:
        if (place := record.place_of(image)) is not None:
            pieces, _ = _pieces(run, image, role)
            share = MAP_BYTES / len(own) / run.settings.images
            found.append(word_maps(record.live, place, role, pieces, tiles, share))
    return tuple(found)


def _pieces(run: Run, image: int, role: Role) -> tuple[tuple[Piece, ...], int]:
    prompt = run.prompt_of(image, role)
    text = [] if words_unknown(prompt) else pieces_of(prompt)
    return (*text, *special_pieces(prompt)), len(text)


def _roles(run: Run, maps: Sequence[WordMaps]) -> tuple[Role, ...]:
    negative = run.settings.negative_given or any(own.role == "uncond" for own in maps)
    return ("cond", "uncond") if negative and "uncond" in run.roles else ("cond",)


def _prompt(run: Run, image: int, role: Role, maps: Sequence[WordMaps]) -> ShownPrompt:
    prompt = run.prompt_of(image, role)
    pieces, text = _pieces(run, image, role)
    recorded = frozenset(number for own in maps if own.role == role for number in own.words)
    said = [words_unknown(prompt)]
    if not prompt.text and not said[0]:
        said.append("It is empty.")
    if not said[0] and prompt.cut:
        said.append(f"The text encoder does not read the end of it: {' '.join(prompt.cut)}.")
    title = "Prompt" if role == "cond" else "Negative prompt"
    return ShownPrompt(role, title, pieces, text, recorded, " ".join(filter(None, said)))


def _title(run: Run, image: int) -> str:
    seed = run.settings.seed
    own = seed[image] if isinstance(seed, tuple) else seed
    said = "seed not known" if own is None else f"seed {own}"
    if isinstance(seed, int) and run.settings.images > 1:
        said += f", one for all {_made(run)}s"
    return f"{_made(run).capitalize()} {image + 1} of {run.settings.images}: “{run.prompt_of(image).text}”, {said}"


def _made(run: Run) -> str:
    return "video" if is_of_videos(run) else "image"


def _frames_said(shown: ShownPicture) -> str:
    if not shown.of:
        return ""
    numbers = ", ".join(map(str, shown.frames))
    if len(shown.frames) == 1:
        return f"One of the {shown.of} frames of the video is shown: frame {numbers}, counted from 0."
    said = f"{len(shown.frames)} of the {shown.of} frames" if len(shown.frames) < shown.of else f"All {shown.of} frames"
    return f"{said} of the video are side by side, row by row: frames {numbers}, counted from 0."


def _summary(run: Run) -> str:
    own = run.settings
    seed = "seed not known" if own.seed is None else f"seed {own.seed}" if isinstance(own.seed, int) else "a seed each"
    said = [
        f"{own.said['images']} of {'' if own.frames is None else f'{own.frames} frames of '}{_size_said(own)}",
        own.said["steps"],
        f"guidance {own.said['guidance']}",
        seed,
    ]
    return " · ".join(said + [f"continued from step {run.resumed_at}"] * bool(run.resumed_at))


def _size(run: Run) -> tuple[int, int]:
    return run.settings.width or 0, run.settings.height or 0  # without a picture nothing is shown in this size


def _size_said(own: Settings, times: str = "×") -> str:
    if None in (own.width, own.height):
        return f"a size {NOT_KNOWN}"
    return f"{own.width}{times}{own.height} pixels"


def _settings(run: Run) -> tuple[tuple[str, str], ...]:
    own, made_by = run.settings, run.provenance
    rows = [
        ("Model", run.model_name),
        ("Loaded from", made_by.source or "not known: a pipeline in memory"),
        ("Hash of its weights", made_by.weights or "not known"),
        ("Computed in", f"{made_by.dtype or 'not known'} on {made_by.device or 'not known'}"),
        ("Prompt" + "s" * (len(own.prompt) > 1), _listed(own.prompt)),
        ("Negative prompt", _listed(own.negative_prompt) if own.negative_given else "none was given"),
        ("Steps", NOT_KNOWN if own.steps is None else str(own.steps)),
        ("Guidance scale", own.said["guidance"]),
        ("Scheduler", own.scheduler or NOT_KNOWN),
        (
            "Seed",
            "not known" if own.seed is None else _listed(own.seed) if isinstance(own.seed, tuple) else str(own.seed),
        ),
        ("Width × height", _size_said(own, " × ")),
        (f"{_made(run).capitalize()}s per prompt", str(own.images_per_prompt)),
        ("Rows of the denoiser", ", ".join(run.roles)),
        (
            "Started from",
            "noise" if own.strength is None else f"a picture, at step {own.start_step}, strength {own.strength:g}",
        ),
    ]
    if own.frames is not None:
        rows.append(("Frames of each video", str(own.frames)))
    if own.guidance_scale_2 is not None:
        rows.append(("Guidance scale of the second denoiser", f"{own.guidance_scale_2:g}"))
    if run.stopped_at is not None:
        rows.append(("Stopped", f"after step {run.stopped_at}"))
    if run.resumed_at:
        rows.append(("Continued", f"another run, from step {run.resumed_at}"))
    hooks = [repr(own.given) for own in hooks_of_run(run)]
    return (*rows, ("Hooks", "\n".join(hooks) or "none"))


def _listed(values: Sequence[object]) -> str:
    return "\n".join(str(value) for value in dict.fromkeys(values))


def _colours() -> str:
    table = matplotlib.colormaps[plot.HEAT](np.arange(256))[:, :3]
    return b64encode((table * 255).round().astype(np.uint8).tobytes()).decode("ascii")
