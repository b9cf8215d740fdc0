"""HTML of images and runs for notebooks: images are embedded in the page, text is escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

from PIL.Image import Image

from sdprobe.plot.table import as_html

SIDE = 160  # CSS pixels; images of a small model are otherwise too small


def as_png(picture: Image) -> bytes:
    """Return the image as a PNG file.

    >>> from PIL import Image
    >>> as_png(Image.new("RGB", (4, 4)))[:4]
    b'\\x89PNG'
    """
    file = BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def as_figures(pictures: Sequence[Image], captions: Sequence[str]) -> str:
    """Return HTML of images side by side, each above its caption.

    >>> from PIL import Image
    >>> as_figures([Image.new("RGB", (4, 4))], ["<b>"]).endswith("<figcaption>&lt;b&gt;</figcaption></figure></div>")
    True

    Args:
        pictures: any number of images.
        captions: one for each; HTML in them is escaped.
    """
    figures = []
    for picture, caption in zip(pictures, captions, strict=True):
        shown, width = escape(caption), max(SIDE, picture.width)
        source = b64encode(as_png(picture)).decode("ascii")
        figures.append(
            f'<figure style="margin:0;width:{width}px"><img alt="{shown}" src="data:image/png;base64,{source}" '
            f'style="width:100%;image-rendering:pixelated"><figcaption>{shown}</figcaption></figure>'
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(figures)}</div>'


def as_run(title: str, settings: Any, pictures: Sequence[Image], hooks: Sequence[object]) -> str:
    """Return HTML of a run: its images, each with prompt and seed, and a table of its settings (`sdprobe.Settings`).

    Of each video three frames are shown.
    """
    seeds = settings.seed if isinstance(settings.seed, tuple) else (settings.seed,) * settings.images
    prompts = [prompt for prompt in settings.prompt for _ in range(settings.images_per_prompt)]
    captions = [f"{prompt} (seed {seed})" for prompt, seed in zip(prompts, seeds, strict=True)]
    if settings.frames is not None and pictures:
        each = len(pictures) // settings.images
        chosen = sorted({0, each // 2, each - 1})
        pictures = [pictures[video * each + frame] for video in range(settings.images) for frame in chosen]
        captions = [f"{caption}, frame {frame}" for caption in captions for frame in chosen]
    names = ("negative_prompt", "steps", "scheduler", "guidance_scale", "height", "width")
    rows = [(name.replace("_", " "), _said(getattr(settings, name))) for name in names]
    table = as_html([("setting", "value"), *rows, ("hooks", ", ".join(map(str, hooks)))], title)
    return as_figures(pictures, captions[: len(pictures)]) + table  # an interrupted run has no images


def _said(value: object) -> str:
    if value is None:
        return "not known"
    return ", ".join(map(repr, dict.fromkeys(value))) if isinstance(value, tuple) else str(value)
