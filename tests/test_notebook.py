"""What ends a notebook's cell shows itself: pictures inside the page, and text that is never run."""

from __future__ import annotations

import base64
import re
from html import escape
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sdprobe
from sdprobe.plot.notebook import as_figures, as_png
from tests.laws.strategies import run


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def pictures_in(html):
    return [Image.open(BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", html)]


def test_a_run_shows_its_pictures_and_its_settings(tiny):
    result = run(tiny, "latents", prompt=["a star", "a ring"], images_per_prompt=2, seed=[1, 2, 3, 4])
    html = result._repr_html_()
    page = Page(html)
    shown = pictures_in(html)
    assert [np.asarray(own).tolist() for own in shown] == [np.asarray(own).tolist() for own in result.images]
    captions = re.findall(r"a \w+ \(seed \d\)", page.text)
    assert captions == ["a star (seed 1)", "a star (seed 2)", "a ring (seed 3)", "a ring (seed 4)"]
    assert repr(result) in page.text
    assert "LatentRecorder" in page.text
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)


@given(prompt=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30))
def test_whatever_a_prompt_says_is_shown_and_never_run(tiny, prompt):
    plain = run(tiny, prompt="a star")
    page = Page(plain._repr_html_())
    hostile = f"<script>alert(1)</script>\" onerror='x' {prompt}"
    shown = run(tiny, prompt=hostile, steps=1)._repr_html_()
    assert Page(shown).tags == page.tags
    assert "<script" not in shown
    assert escape(hostile) in shown


@given(side=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_a_png_is_the_picture(side, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, 2 * side, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(BytesIO(as_png(Image.fromarray(pixels))))) == pixels).all()


def test_no_pictures_are_no_figures():
    assert Page(as_figures([], [])).tags == ["div"]


def test_a_heat_map_shows_its_overlay(tiny):
    maps = sdprobe.AttentionMaps()
    heat = run(tiny, maps)[maps].heat_map(1)
    shown = Image.open(BytesIO(heat._repr_png_()))
    assert shown.format == "PNG"
    file = BytesIO()
    heat.overlay().savefig(file, format="png")
    assert (np.asarray(shown) == np.asarray(Image.open(file))).all()
    assert Image.open(BytesIO(sdprobe.HeatMap(torch.eye(4))._repr_png_())).size == shown.size


def test_tables_show_themselves(embedded):
    tokens = sdprobe.tokens(embedded, "a <b> star")
    page = Page(tokens._repr_html_())
    assert page.tags.count("tr") == 1 + sum(row.role != "pad" for row in tokens.rows())
    assert "b" not in page.tags
    schedule = sdprobe.schedule(embedded, 7)
    assert Page(schedule._repr_html_()).tags.count("tr") == 1 + len(schedule.sigmas)
