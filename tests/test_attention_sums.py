"""Running sums: added up in float32, kept in another dtype where one is asked for, a step at a time."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import AttentionMaps
from tests.laws.strategies import run

EVERYTHING = ("step", "layer", "head")
keeps = st.sets(st.sampled_from(EVERYTHING)).map(tuple)
halves = st.sampled_from([torch.float16, torch.bfloat16])


@given(keep=keeps, dtype=halves, unasked=st.sampled_from([1, 4_000_000]))
def test_half_precision_rounds_every_sum_once(tiny, keep, dtype, unasked):
    """So a sum in half precision is the sum in float32, rounded."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sdprobe.observe.attention_maps.UNASKED_BYTES", unasked)
        full, half = AttentionMaps(keep=keep), AttentionMaps(keep=keep, dtype=dtype)
        result = run(tiny, full, half, steps=3)
    assert list(result[full].sums) == list(result[half].sums)
    for key, total in result[full].sums.items():
        assert total.dtype == torch.float32
        assert torch.equal(result[half].sums[key], total.to(dtype))
    assert result[half].held_bytes * 2 == result[full].held_bytes
    assert result[half].sums.counts == result[full].sums.counts


class Through(AttentionMaps):
    """Notes the dtypes of its sums, by step, at the end of each step's attention."""

    def start(self, run):
        super().start(run)
        self.dtypes = []

    def model_output(self, x, step):
        self.dtypes.append({(key.step, total.dtype) for key, total in self.sums.items()})


def test_a_sum_is_complete_when_its_step_is_over(tiny):
    maps, whole = Through(keep="step", dtype="float16"), Through(dtype="float16")
    result = run(tiny, maps, whole, steps=3)
    half, full = torch.float16, torch.float32
    assert result[maps].dtypes == [{(0, full)}, {(0, half), (1, full)}, {(0, half), (1, half), (2, full)}]
    assert result[whole].dtypes == [{(None, full)}] * 3
    assert {total.dtype for own in (maps, whole) for total in result[own].sums.values()} == {half}


class Stopped(sdprobe.Observer):
    def noise_pred(self, x, step):
        raise KeyboardInterrupt


def test_a_run_that_is_stopped_leaves_complete_sums(tiny):
    maps, live = AttentionMaps(dtype="bfloat16"), []

    class Kept(sdprobe.Observer):
        def start(self, run):
            live.append(run)

        def latents(self, x, step): ...

    with pytest.raises(KeyboardInterrupt):
        run(tiny, maps, Kept(), Stopped())
    assert {total.dtype for total in live[0][maps].sums.values()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("keep", [(), ("step",), EVERYTHING], ids=str)
def test_maps_in_half_precision_are_those_in_full_but_for_rounding(embedded, keep, dtype):
    """Over 50 steps: what the docstring of `AttentionMaps` says, 0.04 % and 0.4 % of a map's maximum."""
    full, half = AttentionMaps(keep=keep), AttentionMaps(keep=keep, dtype=dtype)
    prompt = "a red circle left of a blue square"
    result = run(embedded, full, half, prompt=prompt, steps=50)
    steps = (None, 0, 25, 49) if "step" in keep else (None,)
    for step in steps:
        for word in ("red", "circle", "left"):
            expected = result[full].heat_map(word, step=step).values
            found = result[half].heat_map(word, step=step).values
            assert found.dtype == torch.float32
            assert (found - expected).abs().max() <= {"float16": 0.0004, "bfloat16": 0.004}[dtype] * expected.max()
    sums = result[half].row_sums()
    assert torch.allclose(sums, torch.ones_like(sums), atol=0.01)


def test_what_is_held_is_counted_as_it_is(tiny):
    maps = AttentionMaps(keep=EVERYTHING, dtype="float16", device="cpu")
    own = run(tiny, maps, steps=3)[maps]
    assert own.sums.held_bytes == sum(total.nbytes for total in own.sums.values())
    assert own.sums.counts == Counter(dict.fromkeys(own.sums, 1))
    assert {total.device.type for total in own.sums.values()} == {"cpu"}


def test_sums_are_found_by_step_layer_and_head(tiny):
    maps = AttentionMaps(keep=EVERYTHING)
    sums = run(tiny, maps, steps=2)[maps].sums
    apart = sums.kept_apart()
    assert (apart["step"], len(apart["layer"]), apart["head"]) == ([0, 1], 7, [0, 1])
    layer = apart["layer"][0]
    assert [(key.step, key.layer) for key in sums.matching("cond", 1, layer, 0)] == [(1, layer)]
    for wrong in ({"step": 2}, {"layer": "nowhere"}, {"head": 2}):
        with pytest.raises(ValueError, match=r"nothing was recorded at .* recorded: 2 steps"):
            sums.matching("cond", **wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_complete_sums_leave_the_gpu():
    model = sdprobe.load(device="cuda")
    maps, there = Through(keep="step", device="cpu"), AttentionMaps(keep="step")
    result = run(model, maps, there, steps=3)
    for key, total in result[there].sums.items():
        assert total.device.type == "cuda"
        assert torch.equal(result[maps].sums[key], total.cpu())
