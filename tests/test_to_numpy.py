"""A run as plain arrays: those of the dataset and its coordinates, without xarray."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sdprobe import AttentionMaps, LatentRecorder, Preview, Statistics, only
from tests.laws.strategies import run


@pytest.fixture(scope="module")
def result(tiny):
    hooks = (AttentionMaps(rows="both", keep=("layer",)), only(LatentRecorder(), rows=[1]), Statistics(), Preview())
    return run(tiny, *hooks, prompt=["a red circle", "a star"])


def test_arrays_and_coordinates_are_those_of_the_dataset(result):
    pytest.importorskip("xarray")
    dataset, arrays = result.to_xarray(), result.numpy()
    assert set(arrays) == {*dataset.variables}
    for name, values in arrays.items():
        assert type(values) is np.ndarray
        assert np.array_equal(values, dataset[name].values), name


def test_they_are_written_and_read_without_pickle(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    np.savez(tmp_path / "run.npz", **result.numpy())
    with np.load(tmp_path / "run.npz", allow_pickle=False) as read:
        assert {name: read[name].shape for name in read} == {k: own.shape for k, own in result.numpy().items()}
