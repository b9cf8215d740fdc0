"""`Steer`: an activation plus a multiple of a vector."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdprobe.core.limits.only import only
from sdprobe.testing import check_hook
from sdprobe.transform.steer import Steer
from tests.laws.strategies import run, same_run, seen
from tests.test_patch import Asks

MAP, TOKENS = "up_blocks.1.resnets.0", "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
WIDTHS = {MAP: 64, TOKENS: 32}
scales = st.sampled_from([-2.0, 0.5, 1.0, 4.0])


def drawn(name, seed=0):
    return torch.randn(WIDTHS[name], generator=torch.Generator().manual_seed(seed))


def activations(model, *hooks, name=TOKENS, **given_):
    looking = seen("activation")
    looking.modules = (name,)
    return run(model, *hooks, looking, **given_)[looking].values


@pytest.mark.parametrize("name", [MAP, TOKENS])
@settings(max_examples=4)
@given(scale=scales)
def test_it_adds_a_multiple_of_the_vector_at_every_position(embedded, name, scale):
    vector = drawn(name)
    (own,), (moved,) = (
        activations(embedded, *hooks, name=name, steps=1) for hooks in ([], [Steer(vector, name, scale)])
    )
    added = vector[:, None, None] if own.ndim == 4 else vector
    assert torch.equal(moved[:1], own[:1])  # the row of the empty prompt
    assert torch.equal(moved[1:], own[1:] + scale * added)


@given(a=scales, b=scales)
@settings(max_examples=4)
def test_two_on_one_module_add(embedded, a, b):
    vector = drawn(TOKENS)
    one = activations(embedded, Steer(vector, TOKENS, a), Steer(vector, TOKENS, b), steps=1)[0]
    other = activations(embedded, Steer(vector, TOKENS, a + b), steps=1)[0]
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [MAP, TOKENS])
def test_scale_nought_is_the_identity(embedded, name):
    assert same_run(run(embedded, Steer(drawn(name), name, 0)), run(embedded))


@pytest.mark.parametrize("rows", ["cond", "uncond", [1], None])
@pytest.mark.parametrize("steps", [None, 0, range(1, 2)])
def test_its_limits_are_those_of_only(embedded, rows, steps):
    given_ = {"prompt": ["a red circle", "a blue star"], "steps": 2}
    own = run(embedded, Steer(drawn(TOKENS), TOKENS, rows=rows, steps=steps), **given_)
    limited = run(embedded, only(Steer(drawn(TOKENS), TOKENS, rows=None), rows=rows, steps=steps), **given_)
    assert torch.allclose(own.latents, limited.latents, atol=1e-5)
    assert not same_run(own, run(embedded, **given_))


def test_each_module_has_its_own_vector(embedded):
    vectors = {name: drawn(name) for name in WIDTHS}
    together = run(embedded, Steer(vectors, [MAP, TOKENS]))
    assert same_run(together, run(embedded, *(Steer(own, name) for name, own in vectors.items())))
    with pytest.raises(ValueError, match=r"has no vector for up_blocks.0.resnets.0; it has one for: up_blocks.1"):
        run(embedded, Steer(vectors, "up_blocks.?.resnets.0"))


def test_places(embedded):
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    (own,), (moved,) = (
        activations(embedded, *hooks, name=MAP, steps=1)
        for hooks in ([], [Steer(drawn(MAP), MAP, places=mask, rows=None)])
    )
    changed = (own != moved).any(1)
    assert torch.equal(changed, mask.expand_as(changed))


def test_it_keeps_the_laws_of_hooks():
    check_hook(lambda: Steer(torch.ones(8), "conv_in*", scale=0.5))


def test_errors(embedded):
    vector = drawn(TOKENS)
    with pytest.raises(ValueError, match=r"the vector is 32 wide, and the output of up_blocks.1.resnets.0 is 64 wide"):
        run(embedded, Steer(vector, MAP))
    with pytest.raises(ValueError, match=r"the vector is a tensor \[width\], not Tensor\(1, 32\)"):
        Steer(vector[None], TOKENS)
    with pytest.raises(ValueError, match=r"32 of its 32 numbers are NaN"):
        Steer(vector * float("nan"), TOKENS)
    with pytest.raises(ValueError, match=r"'conditional' is no role of a row"):
        Steer(vector, TOKENS, rows="conditional")
    with pytest.raises(ValueError, match=r"its rows are none of this run's 1 images"):
        run(embedded, Steer(vector, TOKENS, rows=[1]))
    with pytest.raises(ValueError, match=r"its rows are none of this run's"):
        run(embedded, Steer(vector, TOKENS, rows="uncond"), guidance_scale=1.0)
    with pytest.warns(UserWarning, match=r"never acted in this run"):
        run(embedded, Steer(vector, TOKENS, steps=range(10, 20)))
    said = f"Steer(Tensor(32,), ('{TOKENS}',), scale=2.0, steps=range(0, 3))"
    assert repr(Steer(vector, TOKENS, 2.0, steps=range(3))) == said


def test_images_of_one_prompt_cannot_be_told_apart_in_a_text_encoder(embedded):
    name = "text_encoder.encoder.layers.0"
    vector = torch.ones(96)
    with pytest.raises(ValueError, match="encodes a prompt once for all of its 2 images"):
        run(embedded, Steer(vector, name, rows=[1]), images_per_prompt=2)
    with pytest.raises(ValueError, match="limited to steps asks for text_encoder"):
        run(embedded, Steer(vector, [name, TOKENS], steps=[1]))
    plain = run(embedded, images_per_prompt=2).latents
    both, cond = (
        run(embedded, Steer(vector, name, rows=rows), images_per_prompt=2).latents for rows in ([0, 1], "cond")
    )
    assert not torch.equal(cond, plain)
    assert not torch.equal(both, cond)  # the negative prompt is steered too


def test_given_to_a_further_call_it_is_as_it_was(embedded):
    steer = Steer(drawn(TOKENS), TOKENS, 3.0)
    before = dict(vars(steer))
    assert torch.equal(run(embedded, Asks(steer)).latents, run(embedded, steer).latents)
    assert vars(steer) == before
