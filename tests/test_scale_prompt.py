"""`ScalePrompt`: 1 is the identity; it acts on one side, after the encoder."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe import ScalePrompt
from tests.laws.strategies import run, same_run, seen


def test_one_is_the_identity(tiny):
    assert same_run(run(tiny, ScalePrompt(1.0)), run(tiny))


@given(factor=st.sampled_from([0.0, 0.5, 1.1, -1.0]), role=st.sampled_from(["cond", "uncond"]))
def test_one_side_is_scaled(tiny, factor, role):
    looking = seen("prompt_embeds")
    plain, scaled = run(tiny, looking)[looking].values, run(tiny, ScalePrompt(factor, role), looking)[looking].values
    for side, old, new in zip(["uncond", "cond"], plain, scaled, strict=True):
        assert torch.equal(new, old * factor if side == role else old)
