"""A sheet over two settings holds the pictures of its runs."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from sdprobe.sampling.side_by_side import side_by_side
from tests.laws.strategies import run


def test_every_cell_is_its_run(tiny):
    schedulers, steps = ["DDIM", diffusers.LMSDiscreteScheduler], [2, 3]
    figure = side_by_side(
        tiny, "a red circle", rows={"scheduler": schedulers}, columns={"steps": steps}, guidance_scale=3.0
    )
    shown = [np.asarray(ax.get_images()[0].get_array()) for ax in figure.axes]
    runs = [run(tiny, scheduler=scheduler, steps=count) for scheduler in schedulers for count in steps]
    assert len(shown) == 4
    for cell, own in zip(shown, runs, strict=True):
        assert np.array_equal(cell, np.asarray(own.images[0]))
    assert [ax.get_title() for ax in figure.axes[:2]] == ["steps 2", "steps 3"]
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["DDIM", "LMSDiscrete"]


def test_any_two_settings(tiny):
    figure = side_by_side(tiny, "a star", rows={"guidance_scale": [1.0, 4.0]}, columns={"seed": [3]}, steps=2)
    assert [ax.get_ylabel() for ax in figure.axes] == ["guidance scale 1.0", "guidance scale 4.0"]
    assert figure.axes[0].get_title() == "seed 3"


@pytest.mark.parametrize("rows", [{}, {"steps": []}, {"steps": [1], "seed": [2]}])
def test_refused(tiny, rows):
    with pytest.raises(ValueError, match="rows are one setting and its values"):
        side_by_side(tiny, "a star", rows=rows, columns={"seed": [1]})
