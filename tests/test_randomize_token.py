"""`RandomizeToken`: another direction of the same length, the same for the same seed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe import RandomizeToken
from tests.laws.strategies import run, same_run, seen


def embedding(tiny, *hooks):
    looking = seen("token_embeds")
    values = run(tiny, *hooks, looking, steps=1)[looking].values[1]
    return values[0, tiny.read("a red circle").positions("circle")[0]]


@given(seed=st.integers(0, 1000))
def test_the_length_is_kept_and_the_direction_is_not(tiny, seed):
    own, random = embedding(tiny), embedding(tiny, RandomizeToken("circle", seed=seed))
    assert torch.allclose(own.norm(), random.norm(), rtol=1e-5)
    assert torch.cosine_similarity(own, random, dim=0) < 0.95


@given(seed=st.integers(0, 1000))
def test_a_seed_is_a_direction(tiny, seed):
    assert same_run(run(tiny, RandomizeToken("circle", seed=seed)), run(tiny, RandomizeToken("circle", seed=seed)))
    other = embedding(tiny, RandomizeToken("circle", seed=seed + 1))
    assert not torch.equal(embedding(tiny, RandomizeToken("circle", seed=seed)), other)
