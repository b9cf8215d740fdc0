"""`Step.predict`: a further call of the denoiser says what the loop's own would, and leaves the run as it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import AddVector, ReplaceToken
from sdprobe.testing import footprint
from tests.laws.strategies import run, same_run


class Asked(sdprobe.Transform):
    """Asks at `noise_pred` what the denoiser says of the step's own latents."""

    def __init__(self, *hooks, role=None):
        self.hooks, self.role = hooks, role

    def start(self, run):
        self.pairs = []

    def noise_pred(self, x, step):
        own = step.model_output if self.role is None else step.model_output[step.rows_of(self.role)]
        self.pairs.append((own, step.predict(step.latents, *self.hooks, role=self.role)))
        return x


class Look(sdprobe.Transform):
    """Keeps the attention that passes, with its graph."""

    kinds = ("cross",)

    def start(self, run):
        self.seen = []

    def attention(self, attn, site):
        self.seen.append((attn.probs(), site.step.rows))
        return attn


CHANGES = {
    "nothing": lambda: (),
    "a word": lambda: (ReplaceToken("red", with_="blue"),),
    "a word at some sites": lambda: (sdprobe.only(ReplaceToken("red", with_="blue"), sites="up_blocks.*"),),
    "two at some sites": lambda: (
        sdprobe.only(ReplaceToken("red", with_="blue"), sites="up_blocks.*"),
        sdprobe.only(AddVector("circle", torch.ones(16)), sites="*", steps={1}),
    ),
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_it_says_what_the_loops_own_call_said(tiny, changes):
    asked = Asked()
    for own, again in run(tiny, *changes(), asked)[asked].pairs:
        assert torch.equal(own, again)


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@given(role=st.sampled_from(["cond", "uncond"]), images=st.integers(1, 2))
def test_the_rows_of_one_role(tiny, changes, role, images):
    asked = Asked(role=role)
    for own, again in run(tiny, *changes(), asked, images_per_prompt=images)[asked].pairs:
        torch.testing.assert_close(own, again, rtol=1e-4, atol=1e-5)  # kernels differ with the number of rows


def test_the_run_is_as_it_would_be(tiny):
    before = footprint(tiny.pipe)
    maps = sdprobe.AttentionMaps()
    asked = run(tiny, Asked(), maps)
    assert same_run(asked, run(tiny))
    assert set(asked.coverage.seen.values()) == {asked.settings.steps}  # the further calls are none of the run's own
    assert sum(asked[maps].sums.counts.values()) == asked.settings.steps * len(asked.coverage.seen)
    assert footprint(tiny.pipe) == before


def test_gradients_reach_the_latents_through_what_a_further_hook_sees(tiny):
    class Pull(sdprobe.Transform):
        def start(self, run):
            self.gradients = []

        def latents(self, x, step):
            look = Look()
            look.start(step.run)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                step.predict(leaf, look, role="cond")
                probs, rows = look.seen[-1]
                assert [row.role for row in rows] == ["cond"]
                (gradient,) = torch.autograd.grad(probs[..., 1].square().sum(), leaf)
            self.gradients.append(gradient)
            return x

    before = footprint(tiny.pipe)
    pull = Pull()
    pulled = run(tiny, pull)
    assert same_run(pulled, run(tiny))
    assert all(gradient.norm() > 0 for gradient in pulled[pull].gradients)
    assert footprint(tiny.pipe) == before


def test_inside_the_denoiser_it_is_refused(tiny):
    class Inside(sdprobe.Transform):
        def attention(self, attn, site):
            site.step.predict(site.step.latents)
            return attn

    before = footprint(tiny.pipe)
    with pytest.raises(RuntimeError, match="inside the denoiser, which is running"):
        run(tiny, Inside())
    assert footprint(tiny.pipe) == before


def test_a_role_that_the_run_has_not(tiny):
    with pytest.raises(ValueError, match="no rows of role 'uncond'"):
        run(tiny, Asked(role="uncond"), guidance_scale=1.0)


def test_parameters_stay_frozen_from_the_first_gradient_to_the_end_of_the_run(tiny):
    """A checkpointed pass is computed again in the backward pass, after the call, and must find them as they were."""

    class Differentiates(sdprobe.Transform):
        def start(self, run):
            self.learning = []

        def noise_pred(self, x, step):
            parameters = list(step.run.model.denoiser.parameters())
            self.learning.append(any(parameter.requires_grad for parameter in parameters))
            if step.index == 1:
                with torch.enable_grad():
                    leaf = step.latents.detach().requires_grad_()
                    loss = step.predict(leaf, role="cond").square().mean()
                    assert not any(parameter.requires_grad for parameter in parameters)
                    torch.autograd.grad(loss, leaf)
            return x

    before, hook = footprint(tiny.pipe), Differentiates()
    assert run(tiny, hook, steps=3)[hook].learning == [True, True, False]
    assert footprint(tiny.pipe) == before


class Deeper(sdprobe.Observer):
    """Calls the denoiser again from within a further call of it."""

    kinds = ("cross",)

    def attention(self, attn, site):
        site.step.predict(site.step.latents)


def test_inside_a_further_call_it_is_refused_too(tiny):
    def ask(x, step):
        step.predict(x, Deeper())
        return x

    with pytest.raises(RuntimeError, match="inside the denoiser, which is running"):
        sdprobe.sample(tiny, "a star", hooks=[sdprobe.on("latents", ask)], steps=1, progress=False, height=16, width=16)
