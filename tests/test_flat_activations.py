"""`FlatActivations`: each vector with the picture, step and place that it is from."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe.core.activations.flat import flatten
from sdprobe.core.activations.form import ActivationForm, RowLabel
from sdprobe.observe.activations import Activations
from tests.laws.strategies import run


def test_places_of_a_stream_with_text_and_image():
    """The image's positions have a place in the grid, those of the text a token; wherever the image stands."""
    form = ActivationForm(
        ("rows", "positions", "width"), (RowLabel(4, "cond", "a"),), grid=(2, 3), image=(2, 8), text=(0, 2)
    )
    x = torch.randn(1, 8, 5)
    flat = flatten({7: (x, form)})
    assert torch.equal(flat.vectors, x[0])
    assert flat.table["y"].tolist() == [-1, -1, 0, 0, 0, 1, 1, 1]
    assert flat.table["x"].tolist() == [-1, -1, 0, 1, 2, 0, 1, 2]
    assert flat.table["token"].tolist() == [0, 1, -1, -1, -1, -1, -1, -1]
    assert flat.table["position"].tolist() == list(range(8))
    assert set(flat.table["picture"]) == {4}
    assert set(flat.table["step"]) == {7}


def test_the_table_points_to_where_a_vector_is_from(tiny):
    class Planted(sdprobe.Transform):
        modules = ("mid_block",)

        def activation(self, x, site):
            if site.step.index != 1:
                return x
            (row,) = [i for i, row in enumerate(site.rows) if (row.image, row.role) == (1, "cond")]
            return x.index_put(tuple(torch.tensor([k]) for k in (row, 3, 2, 1)), torch.tensor([1e3]))

    acts, model = Activations("mid_block"), tiny
    result = run(model, Planted(), acts, images_per_prompt=2, steps=3, height=128, width=64)
    flat = result[acts].flat("mid_block")
    h, w = result[acts]["mid_block"].shape[-2:]
    assert (h, w) == (2 * w, w)  # so that y and x are not taken for each other
    sample, channel = np.unravel_index(int(flat.vectors.argmax()), flat.vectors.shape)
    assert channel == 3
    found = {name: column[sample] for name, column in flat.table.items()}
    assert found == {
        "picture": 1, "role": "cond", "prompt": "a red circle", "step": 1, "y": 2, "x": 1,
        "position": 2 * w + 1, "token": -1,
    }  # fmt: skip
    assert len(flat) == len(flat.table["y"]) == 3 * 4 * h * w


def test_several_steps_and_rows_stand_one_after_the_other():
    rows = (RowLabel(0, "uncond", ""), RowLabel(0, "cond", "a"))
    steps = {k: (torch.full((2, 3), float(k)), ActivationForm(("rows", "width"), rows)) for k in (2, 5)}
    flat = flatten({**steps, None: (torch.zeros(2, 3), ActivationForm(("rows", "width"), rows))})
    assert flat.vectors[:, 0].tolist() == [2, 2, 5, 5, 0, 0]
    assert flat.table["step"].tolist() == [2, 2, 5, 5, -1, -1]
    assert flat.table["role"].tolist() == ["uncond", "cond"] * 3
    assert set(flat.table["position"]) == {-1}


def test_a_data_frame_if_pandas_is_there(monkeypatch):
    flat = flatten({0: (torch.zeros(1, 2), ActivationForm(("rows", "width"), (RowLabel(0, "cond", "a"),)))})
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        flat.to_pandas()
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    assert isinstance(flat.to_pandas(), pandas.DataFrame)
    assert flat.to_pandas()["role"].tolist() == ["cond"]
