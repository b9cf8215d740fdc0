"""Guidance by hooks: the scale that is asked for, step by step, whatever else acts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import Guidance, LatentRecorder, RescaleGuidance, only
from tests.laws.strategies import affine, run, same_run

scales = st.floats(-2, 12).map(lambda scale: round(scale, 1))


class Apart(sdprobe.Observer):
    def start(self, run):
        self.seen, self.without = [], []

    def model_output(self, x, step):
        self.without.append(step.model_output)
        self.seen.append([x, x[step.rows_of("cond")], x[step.rows_of("uncond")]])

    def noise_pred(self, x, step):
        self.seen[-1] += [step.model_output, x]


@given(st.lists(scales, min_size=4, max_size=4), st.integers(1, 2))
def test_every_step_is_guided_by_its_own_scale(tiny, each, images):
    apart = Apart()
    result = run(tiny, Guidance(each), apart, steps=4, images_per_prompt=images, prompt=["a star", "a ring"])
    for scale, (output, cond, uncond, known, guided) in zip(each, result[apart].seen, strict=True):
        assert torch.equal(output, known)
        assert torch.equal(guided, uncond + scale * (cond - uncond))
    assert result[apart].without == [None] * 4


@given(st.sampled_from([1.5, 3.0, 7.0]))
def test_the_run_s_own_scale_changes_nothing(tiny, scale):
    assert same_run(run(tiny, Guidance(scale), guidance_scale=scale), run(tiny, guidance_scale=scale))


def test_scale_1_is_the_prompt_alone_and_0_is_no_prompt(tiny):
    """Rows that stand in a larger batch are computed a little otherwise."""
    one = run(tiny, Guidance(1.0)).latents
    assert torch.allclose(one, run(tiny, guidance_scale=1.0).latents, atol=1e-4)
    none = run(tiny, Guidance(0.0)).latents
    assert torch.allclose(none, run(tiny, guidance_scale=1.0, prompt="").latents, atol=1e-4)


def test_the_negative_prompt_is_what_is_guided_away_from(tiny):
    swapped = run(tiny, Guidance(0.0), prompt="a star", negative_prompt="a ring").latents
    assert torch.allclose(swapped, run(tiny, prompt="a ring", guidance_scale=1.0).latents, atol=1e-4)


def test_a_list_a_function_and_a_limit_say_the_same(tiny):
    by_list = run(tiny, Guidance([6.0, 6.0, 1.0, 1.0]), steps=4)
    by_function = run(tiny, Guidance(lambda step: 6.0 if step.index < 2 else 1.0), steps=4)
    by_limit = run(tiny, only(Guidance(1.0), steps=[2, 3]), steps=4, guidance_scale=6.0)
    assert same_run(by_list, by_function)
    assert same_run(by_list, by_limit)


@given(st.sampled_from(["latents", "model_output", "attention"]), scales)
def test_what_others_make_of_the_output_is_guided_too(tiny, point, scale):
    """At another point, it does not matter which of the two is written first."""
    other = affine(point, 0.9, 0.25)
    assert same_run(run(tiny, other, Guidance(scale)), run(tiny, Guidance(scale), other))


def test_the_last_of_several_holds(tiny):
    assert same_run(run(tiny, Guidance(8.0), Guidance(2.0)), run(tiny, Guidance(2.0)))


@given(st.floats(0, 1), st.sampled_from([2.0, 9.0]))
def test_rescaling_brings_the_spread_to_that_of_the_prompt(tiny, amount, scale):
    apart = Apart()
    result = run(tiny, RescaleGuidance(amount), apart, guidance_scale=scale, images_per_prompt=2)
    for _, cond, uncond, _, rescaled in result[apart].seen:
        guided = uncond + scale * (cond - uncond)
        expected = amount * cond.std((1, 2, 3)) + (1 - amount) * guided.std((1, 2, 3))
        assert torch.allclose(rescaled.std((1, 2, 3)), expected, rtol=1e-4)


def test_rescaling_follows_another_scale(tiny):
    both = run(tiny, Guidance(9.0), RescaleGuidance(0.7), guidance_scale=3.0)
    assert same_run(both, run(tiny, RescaleGuidance(0.7), guidance_scale=9.0))
    assert same_run(run(tiny, RescaleGuidance(0.0)), run(tiny))


def test_nobody_writes_into_what_the_denoiser_returned(tiny):
    class Writer(sdprobe.Observer):
        def noise_pred(self, x, step):
            step.model_output.mul_(2)

    with pytest.raises(ValueError, match="wrote into its value in place"):
        run(tiny, Writer())


def test_what_a_step_knows_is_what_is_recorded(tiny):
    recorder = LatentRecorder(keep=("noise_pred",))
    by_hook = run(tiny, Guidance(5.0), recorder, guidance_scale=3.0)[recorder]
    assert torch.equal(by_hook["noise_pred"][0], run(tiny, recorder, guidance_scale=5.0)[recorder]["noise_pred"][0])


def test_errors(tiny):
    with pytest.raises(ValueError, match="no guidance to change: StableDiffusion at guidance_scale 1 is not asked"):
        run(tiny, Guidance(5.0), guidance_scale=1.0)
    with pytest.raises(ValueError, match="3 scales for 4 calls of the denoiser"):
        run(tiny, Guidance([1.0, 2.0, 3.0]), steps=4)
    with pytest.raises(ValueError, match=r"amount lies between 0 and 1, not at 1\.5"):
        RescaleGuidance(1.5)
