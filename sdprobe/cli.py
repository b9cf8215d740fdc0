"""The command line: ``sdprobe "a red circle" --out DIR --report`` and ``sdprobe hooks``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sdprobe import plot
from sdprobe.core import registry
from sdprobe.core.run import Run
from sdprobe.files.atomic_file import write_atomically
from sdprobe.files.video_files import write_gif
from sdprobe.model.loading import load
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.preview import Preview
from sdprobe.observe.statistics import Statistics
from sdprobe.plot.heatmap import HeatMap
from sdprobe.sampling.loop import sample

FPS = 8
"""Frames per second of what is written of a video."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after an error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["hooks"]:
        print(registry.hooks())
        return 0
    options = _parser().parse_args(arguments)
    try:
        paths = draw(options)
    except Exception as error:
        notes = getattr(error, "__notes__", [])  # an error from a hook has notes, and may be of any type
        if not notes and not isinstance(error, (ValueError, TypeError, KeyError, OSError, RuntimeError)):
            raise
        message = str(error).strip().splitlines() or [type(error).__name__]
        print(f"sdprobe: {'; '.join([message[0], *notes])}", file=sys.stderr)
        return 2
    print("\n".join(map(str, paths)))
    return 0


def draw(options: argparse.Namespace) -> list[Path]:
    """Generate the images and their word heat maps, and write them. Return the paths of the files."""
    if not options.prompt.strip():
        raise ValueError('the prompt is empty; write for example: sdprobe "a red circle left of a blue square"')
    asked = [parse_hook(text) for text in options.hook]
    hooks = [registry.create(name, **config) for name, config in asked]
    maps = AttentionMaps()
    if options.report:
        shown = [Preview(), Statistics()]
        hooks = [*hooks, *(own for own in shown if not any(isinstance(hook, type(own)) for hook in hooks))]
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    run = sample(
        load(options.model, device=options.device),
        options.prompt,
        hooks=[maps, *hooks],
        negative_prompt=options.negative_prompt,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        seed=options.seed,
        scheduler=options.scheduler,
        height=options.height,
        width=options.width,
        images_per_prompt=options.images,
        frames=options.frames,
        guidance_scale_2=options.guidance_scale_2,
        progress=not options.quiet,
    )
    paths = write(run, maps, out, asked, options.model)
    return [*paths, run.report(out / "report.html")] if options.report else paths


def write(
    run: Run, maps: AttentionMaps, out: Path, asked: list[tuple[str, dict[str, Any]]], model: str | None
) -> list[Path]:
    """Write the images, one overlay per word, a contact sheet, and the settings as JSON; return the paths.

    Videos and the overlays of their words are written as GIF, and a contact sheet for each word.
    """
    paths = _write_pictures(run, maps, out) if run.settings.frames is None else _write_videos(run, maps, out)
    settings = asdict(run.settings) | {"model": model or "embedded", "hooks": asked}
    paths.append(out / "settings.json")
    with write_atomically(paths[-1]) as beside:
        beside.write_text(json.dumps(settings, indent=2) + "\n")
    return paths


def _write_pictures(run: Run, maps: AttentionMaps, out: Path) -> list[Path]:
    paths: list[Path] = []
    rows: list[list[plot.Cell]] = []
    for i, picture in enumerate(run.images):
        prefix = f"{i}-" if len(run.images) > 1 else ""
        heats: dict[str, HeatMap] = run[maps].heat_maps(image=i)
        paths.append(out / f"{prefix}picture.png")
        with write_atomically(paths[-1]) as beside:
            picture.save(beside, format="PNG")
        for number, (word, heat) in enumerate(heats.items()):
            paths.append(_saved(heat.overlay(), out / f"{prefix}{_named(number, word)}.png"))
        rows.append([picture, *(heat.cell() for heat in heats.values())])
    words = list(run[maps].heat_maps()) if len(run.prompts) == 1 else []
    paths.append(_saved(plot.sheet(rows, columns=["", *words], title=run.settings.prompt[0]), out / "sheet.png"))
    return paths


def _write_videos(run: Run, maps: AttentionMaps, out: Path) -> list[Path]:
    paths: list[Path] = []
    for i, frames in enumerate(run.videos):
        prefix = f"{i}-" if len(run.videos) > 1 else ""
        paths.append(write_gif(frames, out / f"{prefix}video.gif", FPS))
        heats: dict[str, HeatMap] = run[maps].heat_maps(image=i)
        for number, (word, heat) in enumerate(heats.items()):
            film, name = heat.film(), f"{prefix}{_named(number, word)}"
            paths.append(film.gif(out / f"{name}.gif", fps=FPS))
            paths.append(_saved(film.sheet(), out / f"{name}-sheet.png"))
    return paths


def _named(number: int, word: str) -> str:
    name = re.sub(r"[^\w-]+", "_", word)
    return f"word-{number:02d}-{name}"


def parse_hook(text: str) -> tuple[str, dict[str, Any]]:
    """Parse ``name:key=value,key=value`` to a name and a configuration; values are parsed as JSON if possible.

    >>> parse_hook('replace-token:word=circle,with_=square')
    ('replace-token', {'word': 'circle', 'with_': 'square'})
    >>> parse_hook('latents:every=5')
    ('latents', {'every': 5})
    """
    name, _, rest = text.partition(":")
    config: dict[str, Any] = {}
    for part in re.split(r",(?=\w+=)", rest) if rest else ():
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--hook {text}: {part!r} is not key=value; write name:key=value,key=value")
        try:
            config[key] = json.loads(value)
        except json.JSONDecodeError:
            config[key] = value
    return name, config


def _saved(figure: Figure, path: Path) -> Path:
    with write_atomically(path) as beside:
        figure.savefig(beside, dpi=150)
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdprobe",
        description="Make a picture and the heat map of every word of its prompt. 'sdprobe hooks' lists the hooks.",
    )
    parser.add_argument("prompt", help='for example "a red circle left of a blue square"')
    parser.add_argument("--out", default="sdprobe-out", help="folder for what is written (default: %(default)s)")
    parser.add_argument("--model", help="folder, checkpoint file or hub id (default: the embedded model)")
    parser.add_argument("--device", help="for example cuda")
    parser.add_argument("--negative-prompt")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--guidance-scale-2", type=float, help="of the second denoiser, for a model that has two")
    parser.add_argument("--scheduler", help="a class of diffusers, for example DDIM")
    parser.add_argument("--height", type=int, help="pixels")
    parser.add_argument("--width", type=int, help="pixels")
    parser.add_argument("--images", type=int, default=1, help="pictures or videos to make (default: 1)")
    parser.add_argument("--frames", type=int, help="frames of each video, for a model of videos")
    parser.add_argument(
        "--hook", action="append", default=[], metavar="NAME[:KEY=VALUE,...]", help="a registered hook; repeatable"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also record previews and statistics, and write report.html, for a browser",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(main())
