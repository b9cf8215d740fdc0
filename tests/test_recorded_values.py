"""What two runs of pipelines that no family knows recorded is compared, whatever they make."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe import Activations, AttentionRecorder, LatentRecorder, Statistics, compare
from tests.unknown_pipelines import EVERY, attached


@pytest.mark.parametrize("name", EVERY)
def test_an_unknown_pipeline_is_equal_to_itself_and_parts_where_it_is_changed(name, tmp_path):
    unknown = EVERY[name]()
    hooks = LatentRecorder(), Statistics(), Activations(unknown.module), AttentionRecorder(rows=None)
    change = sdprobe.only(sdprobe.on("latents", lambda x: 1.5 * x), steps=[1])
    (a, _), (b, _) = attached(unknown, *hooks), attached(unknown, change, *hooks)
    assert compare(a, sdprobe.open(a.save(tmp_path / "a"))).parting.outcome == "equal"
    at = compare(a, b).parting.at
    assert (at.step, at.quantity) == (1, "latents")
