"""`write_report`: a run as one HTML file."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sdprobe.core.run import Run
from sdprobe.files.atomic_file import write_atomically
from sdprobe.runs.begun_run import refuse_not_begun
from sdprobe.runs.report import curve_panels
from sdprobe.runs.report.report_content import ReportContent, ShownImage, content_of
from sdprobe.runs.report.word_maps_of_run import packed


def write_report(run: Run, path: str | Path) -> Path:
    """Write a run as one HTML file, which fetches nothing from elsewhere. See `Run.report`.

    >>> import tempfile
    >>> import sdprobe
    >>> hooks = [sdprobe.AttentionMaps(), sdprobe.Preview()]
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=hooks, steps=4, seed=0, progress=False)
    >>> path = write_report(run, Path(tempfile.mkdtemp()) / "circle.html")
    >>> path.name, path.read_text(encoding="utf-8")[:15], path.stat().st_size < 1e6
    ('circle.html', '<!doctype html>', True)

    Raises:
        ValueError: for a path that does not end in ``.html``, and for a run that has not begun.
        IsADirectoryError: for a folder.
        FileNotFoundError: if the folder of the file does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{str(path)!r} is a folder: give the file to write, such as {str(path / 'run.html')!r}"
        )
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"a report is an HTML file: give a path that ends in .html, such as {path.name + '.html'!r}")
    refuse_not_begun(run)
    with write_atomically(path) as beside:
        beside.write_text(page_of(content_of(run)), encoding="utf-8", newline="\n")
    return path


def page_of(content: ReportContent) -> str:
    """Return the page. Whatever is a text of the run is escaped by Jinja, and the policy of the page lets only the
    page's own script run."""
    script, style = _source("report.js"), _source("report.css")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_source("report.html.jinja"))
    rendered: str = page.render(
        content=content,
        panel=curve_panels,
        data=_data(content),
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
    )
    return rendered


def _data(content: ReportContent) -> dict[str, Any]:
    """What the page's script reads; the pictures and texts that it does not change are in the page itself."""
    return {
        "colours": content.colours,
        "made": content.shown_as,
        "sheets": [
            {
                "height": sheet.height,
                "width": sheet.width,
                "across": sheet.across,
                "numbers": packed(np.array(sheet.numbers, dtype="<i4")),
                "png": sheet.png,
            }
            for sheet in content.sheets
        ],
        "images": [_image_data(image) for image in content.images],
    }


def _image_data(image: ShownImage) -> dict[str, Any]:
    return {
        "maps": [
            {
                "hook": maps.hook,
                "role": maps.role,
                "said": maps.said,
                "frames": maps.frames,
                "axes": {
                    axis.name: {"values": axis.values, "total": axis.total, "said": axis.said} for axis in maps.axes
                },
                "words": {number: [own.tiles, own.ranges] for number, own in maps.words.items()},
            }
            for maps in image.maps
        ],
        "films": [
            {
                "indices": film.indices,
                "total": film.total,
                "strips": {strip.name: strip.sources for strip in film.strips},
            }
            for film in image.films
        ],
    }


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}"
