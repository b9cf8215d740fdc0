"""Latents of every form are arrays: those of pictures and videos with the names of their axes, others with numbers."""

from __future__ import annotations

import numpy as np
import pytest

import sdprobe
from sdprobe import (
    Activations,
    AttentionMatrices,
    AttentionQueries,
    AttentionRecorder,
    ConceptOutputs,
    LatentRecorder,
    Statistics,
    WordGradients,
)
from sdprobe.runs.export.labelled_arrays import labelled_arrays
from tests.laws.strategies import run
from tests.unknown_pipelines import EVERY, attached

pytest.importorskip("xarray")

OF_PICTURES = ("channel", "y_latents", "x_latents")
AXES = {
    "picture without a prompt": OF_PICTURES,
    "picture": OF_PICTURES,
    "video": ("channel", "frame_latents", "y_latents", "x_latents"),
    "sound": ("axis_1_latents", "axis_2_latents"),
    "3-D": ("axis_1_latents", "axis_2_latents"),
    "two networks": OF_PICTURES,
}


@pytest.mark.parametrize("name", EVERY)
def test_latents_of_pipelines_that_no_family_knows(name):
    unknown = EVERY[name]()
    made, _ = attached(unknown, latents := LatentRecorder(), Statistics(), Activations(unknown.module))
    found = {own.name: own for own in labelled_arrays(made).arrays}
    assert found["latents"].dims == ("step", "image", *AXES[name])
    assert found["final_latents"].dims == ("image", *AXES[name])
    assert np.array_equal(made.numpy()["latents"], made[latents]["latents"])
    assert np.array_equal(made.numpy()["final_latents"], made.latents)
    assert made.to_xarray().final_latents.dims == ("image", *AXES[name])


def test_probabilities_and_queries_of_each_module(tiny):
    recorder, queries = AttentionRecorder(kinds=("cross", "self"), rows=None), AttentionQueries()
    result = run(tiny, recorder, queries, prompt=["a red circle", "a star"])
    found = labelled_arrays(result)
    assert found.attrs["left_out"] == []
    arrays = {own.name: own for own in found.arrays}
    for key in result[recorder].record.keys:
        own = arrays[f"probabilities_{key.name}_{key.stream}"]
        assert own.dims == ("step", "row", *(f"{axis}_{key.name}" for axis in ("heads", "queries")), own.dims[-1])
        assert np.array_equal(own.values, result[recorder][key])
    assert arrays[own.name].coords["row_image"][1].tolist() == [0, 1, 0, 1]
    kept = result[queries]
    for layer, (h, w) in kept.grids_of.items():
        own = arrays[f"queries_{layer}"]
        assert own.dims[3:5] == (f"y_{layer}", f"x_{layer}")
        expected = kept.queries[1, layer, 0]
        assert np.array_equal(own.values[1], expected.unflatten(2, (h, w)))
        assert own.attrs["scale"] == kept.scales[layer]


def test_a_folder_gives_the_same_arrays(tiny, tmp_path):
    hooks = AttentionRecorder(), AttentionQueries(), AttentionMatrices(grids=[4]), ConceptOutputs()
    result = run(tiny, *hooks, WordGradients(["red"]), steps=1)
    opened = sdprobe.open(result.save(tmp_path / "run"))
    arrays, found = result.numpy(), opened.numpy()
    assert arrays.keys() == found.keys()
    assert all(np.array_equal(arrays[name], found[name], equal_nan=arrays[name].dtype.kind == "f") for name in arrays)
    assert opened.to_xarray().identical(result.to_xarray())
