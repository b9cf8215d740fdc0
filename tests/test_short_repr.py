"""Reprs and errors stay short, whatever hooks and runs hold; and say what was written."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AddVector, AttentionMaps, LatentRecorder, ReplaceToken, only
from sdprobe.core.short_repr import LONGEST, short_repr
from tests.laws.strategies import run

LIMIT = 1000


class Holds(sdprobe.Observer):
    """A hook that is given anything, and fails."""

    def __init__(self, held, scale=1.0):
        self.held, self._scale = held, scale

    def latents(self, x, step):
        raise RuntimeError("no")


HELD = [
    {f"encoder {k}": torch.randn(77, 768) for k in range(20)},
    {f"encoder {k}": {f"layer {i}": torch.randn(4) for i in range(30)} for k in range(30)},
    [torch.randn(8)] * 500,
    "a word " * 5000,
    set(range(10_000)),
    {"a": ["x" * 3000] * 3},
]


@pytest.mark.parametrize("held", HELD, ids=[type(held).__name__ for held in HELD])
def test_an_error_that_names_a_hook_is_short(tiny, held):
    assert len(short_repr(held)) <= LONGEST
    with pytest.raises(RuntimeError) as caught:
        run(tiny, Holds(held))
    (note,) = caught.value.__notes__
    assert note.startswith("raised in the hook Holds(")
    assert len(note) < LIMIT
    with pytest.raises(KeyError) as missing:
        run(tiny, only(LatentRecorder(), steps=set(range(9999))))[Holds(held)]
    assert len(str(missing.value)) < LIMIT
    with pytest.raises(ValueError, match="width") as unfit:
        run(tiny, AddVector("red", {"text_encoder": torch.zeros(7)}))
    assert len(str(unfit.value)) < LIMIT


def test_a_run_of_many_prompts_is_short(tiny):
    result = run(tiny, prompt=[f"a red circle number {k}" for k in range(24)], steps=1)
    assert len(repr(result)) < LIMIT
    assert "24 images" in repr(result)
    assert len(repr(result.settings)) < LIMIT
    assert len(repr(sdprobe.Hooks(*[only(ReplaceToken("red", "blue"), steps=range(2))] * 3))) < LIMIT


def test_a_setting_under_another_name_is_not_lost():
    assert repr(Holds([1])) == "Holds([1])"
    assert repr(Holds([1], scale=2.0)) == "Holds([1], scale=2.0)"

    class Renamed(sdprobe.Observer):
        def __init__(self, scale=1.0):
            self.factor = scale

        def latents(self, x, step): ...

    assert repr(Renamed(2.0)) == "Renamed(scale=...)"


@pytest.mark.parametrize("name", ["start", "finish", "latents", "image"])
def test_a_setting_that_hides_a_method_is_refused(tiny, name):
    class Hides(sdprobe.Observer):
        def __init__(self, value):
            setattr(self, name, value)

        def noise_pred(self, x, step): ...

    with pytest.raises(ValueError, match=rf"keeps a setting under self.{name}, which hides its method.*self._{name}"):
        run(tiny, Hides(0.5))


def test_what_was_recorded_is_said_as_it_was(tiny):
    maps = AttentionMaps(keep="step")
    limited = only(maps, steps=range(2, 5))
    result = run(tiny, limited, steps=6)
    with pytest.raises(ValueError, match=r"recorded: 3 steps \[2, 3, 4\], 2 heads"):
        result[maps].heat_map("circle", step=0)
    assert result[limited] is result[maps]
    assert torch.equal(result[limited].heat_map("circle").values, result[maps].heat_map("circle").values)
