"""`NoisePrompt`: as much noise as was asked for, the same for the same seed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe import NoisePrompt
from tests.laws.strategies import run, same_run, seen

amounts = st.sampled_from([0.1, 0.5, 2.0])


def test_nought_is_the_identity(tiny):
    assert same_run(run(tiny, NoisePrompt(0.0)), run(tiny))


@given(amount=amounts, seed=st.integers(0, 100))
def test_the_amount_is_a_share_of_the_embeddings_spread(tiny, amount, seed):
    looking = seen("prompt_embeds")
    plain = run(tiny, looking, steps=1)[looking].values
    shaken = run(tiny, NoisePrompt(amount, seed), looking, steps=1)[looking].values
    assert torch.equal(shaken[0], plain[0])
    ratio = (shaken[1] - plain[1]).std() / plain[1].std()
    assert abs(ratio / amount - 1) < 0.25  # of 256 numbers
    assert same_run(run(tiny, NoisePrompt(amount, seed)), run(tiny, NoisePrompt(amount, seed)))
