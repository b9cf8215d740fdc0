"""Hooks written down: what comes back from JSON acts as what was written."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe.core import registry
from tests.laws.strategies import run, same_run

words = st.sampled_from(["circle", "red"])
dtypes = st.sampled_from([None, torch.float16, "float16", "bfloat16"])
plain = st.one_of(
    st.builds(sdprobe.ReplaceToken, words, st.sampled_from(["star", "blue"]), st.none() | st.just(0)),
    st.builds(sdprobe.ScaleToken, words, st.floats(0.25, 4, allow_nan=False)),
    st.builds(sdprobe.RandomizeToken, words, st.integers(0, 9)),
    st.builds(sdprobe.MixPrompts, st.dictionaries(st.sampled_from(["a star", "a ring"]), st.floats(0, 1), min_size=1)),
    st.builds(sdprobe.ScalePrompt, st.floats(0.5, 2)),
    st.builds(sdprobe.Guidance, st.floats(1, 5) | st.lists(st.floats(1, 5), min_size=2, max_size=2)),
    st.builds(sdprobe.RescaleGuidance, st.floats(0, 1)),
    st.builds(sdprobe.LatentRecorder, st.integers(1, 3), st.none() | st.sets(st.integers(0, 2)), dtype=dtypes),
    st.builds(
        sdprobe.AttentionMaps,
        st.none() | st.just(["red"]),
        places=st.none() | st.just(("up", "down")),
        budget=st.none() | st.just(10**9),
        dtype=dtypes.map(lambda dtype: dtype or torch.float32),
        device=st.sampled_from([None, "cpu", torch.device("cpu")]),
    ),
    st.just(sdprobe.Statistics()),
)
limits = st.sampled_from(
    [
        lambda hook: hook,
        sdprobe.after(1),
        sdprobe.every(2),
        lambda hook: sdprobe.only(hook, steps=range(1)),
        lambda hook: sdprobe.only(sdprobe.after(1)(hook), steps={0, 1}, rows=[0]),
        lambda hook: sdprobe.every(1)(sdprobe.only(hook, rows=(0, 1))),
    ]
)
stacks = st.lists(st.builds(lambda limit, hook: limit(hook), limits, plain), max_size=3)


@given(hooks=stacks)
def test_what_was_written_runs_again_with_equal_results(tiny, hooks):
    text = json.dumps(sdprobe.to_config(hooks), allow_nan=False)
    assert same_run(run(tiny, *json.loads(text)), run(tiny, *hooks))


@given(hooks=stacks)
def test_writing_what_was_read_gives_what_was_written(hooks):
    config = sdprobe.to_config(hooks)
    again = sdprobe.from_config(json.loads(json.dumps(config)))
    assert sdprobe.to_config(again) == config
    assert sdprobe.to_config(config) == config


def test_a_dtype_is_written_by_its_name():
    maps = sdprobe.AttentionMaps(keep="step", dtype=torch.float16, device=torch.device("cuda", 1), budget=2e9)
    config = [["attention-maps", {"keep": ["step"], "budget": 2e9, "dtype": "float16", "device": "cuda:1"}]]
    assert sdprobe.to_config(maps) == config
    assert repr(sdprobe.from_config(config)) == f"Hooks({maps!r})"


class Kept(sdprobe.Transform):
    """Keeps its argument."""

    def __init__(self, factor, gain=1):
        self.factor, self.gain = factor, gain

    def latents(self, x, step):
        return x * self.factor


class Lost(sdprobe.Transform):
    """Keeps its argument under another name."""

    def __init__(self, factor):
        self.by = factor

    def latents(self, x, step):
        return x * self.by


@pytest.fixture
def session(monkeypatch):
    monkeypatch.setattr(registry, "_session", {})
    sdprobe.register("kept")(Kept)
    sdprobe.register("lost")(Lost)
    sdprobe.register("late")(lambda k: sdprobe.after(k)(sdprobe.on("latents", lambda x: x / 2)))
    sdprobe.register("two")(lambda k: sdprobe.Hooks(Kept(k), Kept(k + 1)))


@pytest.mark.usefixtures("session")
def test_what_cannot_be_written_is_named():
    def bad(hook, *said):
        with pytest.raises(ValueError, match="cannot be written") as raised:
            sdprobe.to_config([hook])
        for part in (*said, repr(hook)):
            assert part in str(raised.value)

    bad(sdprobe.AddVector("red", torch.ones(16)), "argument 'vector' is a Tensor")
    bad(sdprobe.Guidance(lambda step: 3), "argument 'scale' is the function lambda of line")
    bad(sdprobe.LossGuidance(lambda x: x.mean(), 3), "argument 'loss'")
    bad(Kept([1, torch.ones(1)]), "argument 'factor[1]' is a Tensor")
    bad(Kept({"a": float("nan")}), "argument \"factor['a']\" is float nan")
    bad(Kept({1: 2}), "argument 'factor' is a dict")
    bad(Lost(2), "does not keep its argument 'factor'")
    bad(sdprobe.on("latents", abs), "argument 'function' is the function abs")
    bad(sdprobe.when(lambda step: True)(Kept(2)), "argument 'when'")
    bad(sdprobe.only(Kept(2), steps=lambda step: True), "argument 'steps'")
    bad(sdprobe.only(Kept(2), steps=range(10**9)), "argument 'steps' is range")
    listening = sdprobe.AttentionMaps()
    listening.kinds = ("self",)
    bad(listening, "kinds was set to ('self',)")


def test_a_class_without_a_name_is_told_of_it():
    with pytest.raises(ValueError, match=r"Kept has no registered name.*@sdprobe\.register"):
        sdprobe.to_config(Kept(2))


@pytest.mark.usefixtures("session")
def test_a_hook_made_by_name_is_written_as_it_was_asked_for(tiny):
    pairs = [["lost", {"factor": 2}], ["late", {"k": 1}], ["two", {"k": 0.5}], ["kept", {"factor": [1, 2]}]]
    made = [sdprobe.create(name, **config) for name, config in pairs]
    assert sdprobe.to_config(made) == pairs
    made[-1].factor = 0.75
    assert sdprobe.to_config(made[-1]) == [["kept", {"factor": 0.75}]]
    assert same_run(run(tiny, *pairs[:3]), run(tiny, *made[:3]))


def test_a_file_names_hooks_and_no_other_code():
    for name in ("os:system", "sdprobe.transform.guidances.guidance:Guidance", "only_"):
        with pytest.raises(ValueError, match="no hook is called"):
            sdprobe.from_config([[name, {}]])
    with pytest.raises(ValueError, match="cannot be built with"):
        sdprobe.from_config([["after", {"j": 3, "hook": "latents"}]])
