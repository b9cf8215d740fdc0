"""A comparison in words, as a table, in a notebook and as a figure."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sdprobe import Activations, AttentionMaps, LatentRecorder, ReplaceToken, compare, only
from sdprobe.runs.comparison.comparison_figure import short_names
from sdprobe.runs.comparison.distances import Distance
from tests.laws.strategies import run

LATENTS = LatentRecorder(keep=("latents", "noise_pred", "denoised"))
MAPS = AttentionMaps(keep=("step", "layer"))
PROMPT = "a red circle left of a blue star"


@pytest.fixture(scope="module")
def found(tiny):
    change = only(ReplaceToken("red", "green"), steps=[2, 3])
    a, b = (run(tiny, *own, LATENTS, MAPS, prompt=PROMPT, steps=4, images_per_prompt=2) for own in ([], [change]))
    return compare(a, b)


def test_in_words(found):
    lines = str(found).splitlines()
    assert lines[0] == found.parted
    assert lines[0].startswith("part at step 2, at attention of down_blocks.0")
    assert "in every image" in lines[0]
    assert any(line.startswith("transforms") and "ReplaceToken('red', 'green')" in line for line in lines)
    assert repr(found) == f"Comparison({found.parted})"
    table = {
        line.split("  ")[0]: line.split()
        for line in lines[lines.index(next(x for x in lines if x.startswith("compared"))) + 1 :]
    }
    assert table["latents"][1:3] == ["8", "6"]
    assert table["picture"][1] == "2"


def test_settings_come_before_distances(tiny):
    found = compare(run(tiny, LATENTS), run(tiny, LATENTS, seed=1, guidance_scale=1.0, prompt="a blue circle"))
    assert found.settings == {
        "prompt": (("a red circle",), ("a blue circle",)),
        "guidance_scale": (3.0, 1.0),
        "seed": (0, 1),
    }
    text = str(found)
    assert text.index("guidance_scale") < text.index("\ncompared") < text.index("attention: recorded by neither")
    assert "words of a only: red" in text
    assert "words of b only: blue" in text


def test_a_tidy_table(found, monkeypatch):
    keys = [own[:6] for own in found.table]
    assert len(set(keys)) == len(keys)
    attention = [own for own in found.table if own.quantity == "attention"]
    assert len(attention) == 4 * 7 * 2 * (1 + len(found.words[0].both))  # steps, sites, images, words and all together
    pandas = pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(Distance._fields)
    assert len(frame) == len(found.table)
    assert frame["step"].isna().sum() == sum(own.step is None for own in found.table)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        found.to_pandas()


def test_in_a_notebook(tiny):
    found = compare(run(tiny, LATENTS, prompt="a <b>"), run(tiny, LATENTS, prompt="a <i>"))
    page = found._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<img") == 3
    assert found.parted in page


def test_the_difference_of_pictures(found):
    a, b = (np.asarray(own, dtype=float) / 255 for own in found.pictures[1])
    assert np.allclose(found.pixel_difference(1), np.abs(a - b).mean(-1))
    assert found.difference(1).size == found.pictures[1][0].size
    with pytest.raises(ValueError, match="image 2 is not among the 2 of both runs"):
        found.difference(2)
    with pytest.raises(ValueError, match="image -1 is not among"):
        found.figure(-1)


def test_the_figure(found):
    figure = found.figure(1)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:3] == ["a", "b", "difference"]
    by_label = {(ax.get_xlabel(), ax.get_ylabel()): ax for ax in figure.axes}
    curves = by_label["step", "distance"]
    lines = {line.get_label(): line for line in curves.get_lines()}
    for name, label in (("latents", "$x_t$"), ("denoised", "predicted $x_0$")):
        drawn = list(lines[label].get_ydata())
        assert drawn == [own.distance for own in found.table if own.quantity == name and own.image == 1]
    assert curves.get_yscale() == "symlog"
    by_step = next(ax for ax in figure.axes if ax.get_xlabel() == "step" and ax.get_ylabel() == "site")
    matrix = np.asarray(by_step.get_images()[0].get_array())
    assert matrix.shape == (7, 4)
    assert (matrix[:, :2] == 0).all()
    assert (matrix[:, 2:] > 0).all()
    by_word = next(ax for ax in figure.axes if ax.get_xlabel().startswith("word"))
    assert [label.get_text() for label in by_word.get_xticklabels()] == list(found.words[1].both)
    values = [own for own in found.table if own.quantity == "attention" and own.image == 1 and own.word == "red"]
    sites = list(dict.fromkeys(own.site for own in values))
    column = np.asarray(by_word.get_images()[0].get_array())[:, list(found.words[1].both).index("red")]
    assert column == pytest.approx([np.mean([own.distance for own in values if own.site == site]) for site in sites])
    assert any(ax.get_ylabel() == "distance of the attention" for ax in figure.axes)


@pytest.mark.parametrize(
    "hooks", [[], [AttentionMaps()], [Activations("*_blocks.?")], [LatentRecorder(keep=("denoised",))]]
)
def test_a_figure_of_whatever_there_is(tiny, hooks):
    found = compare(run(tiny, *hooks), run(tiny, *hooks, seed=3))
    figure = found.figure()
    figure.draw_without_rendering()
    assert figure.axes[2].get_title() == "difference"
    assert (len(figure.axes) > 4) == bool(hooks)


def test_a_figure_of_equal_runs(tiny):
    a = run(tiny, LATENTS, MAPS)
    figure = compare(a, a).figure()
    figure.draw_without_rendering()
    assert figure.axes[2].get_title() == "difference: none"


def test_short_names_are_told_apart():
    names = [f"up_blocks.1.attentions.{i}.transformer_blocks.{j}.attn2" for i in range(2) for j in range(2)]
    assert short_names(names) == ["up 1.0.0", "up 1.0.1", "up 1.1.0", "up 1.1.1"]
    assert short_names(["a.0 (input, x)", "a.0 (output, x)"]) == ["a.0 (input, x)", "a.0 (output, x)"]
