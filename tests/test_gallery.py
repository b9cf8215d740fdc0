"""Thumbnails are square pictures of one panel, and links lead to examples: a gallery of one example is built."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from sdprobe import plot

build = pytest.importorskip("mkdocs.commands.build", reason="no mkdocs: pip install -e '.[docs]'")
pytest.importorskip("mkdocs_gallery", reason="no mkdocs-gallery: pip install -e '.[docs]'")

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "docs" / "gallery_conf.py"
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]


@pytest.fixture(scope="module")
def panel():
    return runpy.run_path(str(CONF))["panel"]


@pytest.mark.parametrize("number", range(6))
def test_a_thumbnail_is_one_panel_and_square(panel, number):
    pictures = [Image.new("RGB", (64, 64), colour) for colour in COLOURS]
    figure = plot.sheet([pictures[:3], pictures[3:]], rows=["one", "two"], columns=["a", "b", "c"])
    before = figure.get_size_inches().tolist(), figure.dpi, figure.canvas
    thumbnail = np.asarray(panel(figure, number))
    assert thumbnail.shape == (280, 280, 3)
    assert (thumbnail[5:-5, 5:-5] == COLOURS[number]).all()
    assert (figure.get_size_inches().tolist(), figure.dpi, figure.canvas) == before


def test_a_thumbnail_of_a_plot_has_its_labels(panel):
    figure = Figure(figsize=(6, 2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax, colour in ((left, "red"), (right, "blue")):
        ax.plot([0, 1], [0, 1], color=colour)
        ax.set(xlabel="step", ylabel="loss")
    labelled = np.asarray(panel(figure, 1))
    right.set(xlabel="", ylabel="")
    assert labelled.shape == (280, 280, 3)
    assert (labelled == (0, 0, 255)).all(-1).any()
    assert not (labelled == (255, 0, 0)).all(-1).any()
    assert not np.array_equal(labelled, np.asarray(panel(figure, 1)))


EXAMPLE = '''"""
# A title

What it is about.
"""

# %%
# ## First

from PIL import Image

from sdprobe import plot

plot.sheet([[Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "yellow")]])

# %%
# ## Second

# mkdocs_gallery_thumbnail_panel = 1
plot.sheet([[Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")]])
'''


def test_a_gallery_of_one_example(tmp_path, monkeypatch):
    """Built with the settings of the real site, strictly."""
    for name, text in {
        "docs/concepts/page.md": "# Page\n\n[One](../../examples/plot_1_it.py), [all](../../examples/README.md)\n",
        "docs/index.md": "# Start\n\n[An example](../examples/plot_1_it.py)\n",
        "examples/README.md": "# Gallery\n\n- [A title](plot_1_it.py)\n",
        "examples/plot_1_it.py": EXAMPLE,
        "docs/gallery_conf.py": CONF.read_text("utf-8"),
        "docs/links.py": (ROOT / "docs" / "links.py").read_text("utf-8"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    del settings["extra_css"]
    settings["nav"] = ["index.md", {"Concepts": ["concepts/page.md"]}, {"Gallery": "gallery"}]
    settings["plugins"] = [own for own in settings["plugins"] if "gallery" in own]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    from mkdocs.config import load_config

    with contextlib.redirect_stdout(io.StringIO()):
        config = load_config("mkdocs.yml")
        config.plugins.on_startup(command="build", dirty=False)
        build.build(config)

    thumbnail = np.asarray(Image.open("site/gallery/images/thumb/mkd_glr_plot_1_it_thumb.png").convert("RGB"))
    assert thumbnail.shape == (280, 280, 3)
    assert (thumbnail[5:-5, 5:-5] == (0, 0, 255)).all()
    page = Path("site/gallery/plot_1_it/index.html").read_text("utf-8")
    assert sorted(name for name in os.listdir("site/gallery/images") if name.endswith(".png")) == [
        f"mkd_glr_plot_1_it_{k:03}.png" for k in (1, 2, 3)
    ]
    assert "plot_1_it_001.png" not in page
    assert "plot_1_it_002.png" in page
    assert "plot_1_it_003.png" in page
    assert "thumbnail_panel" not in page
    for path, link in {
        "index.html": "gallery/plot_1_it/",
        "concepts/page/index.html": "../../gallery/plot_1_it/",
        "gallery/index.html": "plot_1_it/",
    }.items():
        assert f'href="{link}"' in Path("site", path).read_text("utf-8")
