"""Guidances of the predictions with the prompt and without it: their scale, and the runs that they refuse."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdprobe
from sdprobe import (
    AdaptiveProjectedGuidance,
    FrequencyDecoupledGuidance,
    Guidance,
    LatentRecorder,
    MagnitudeAwareGuidance,
    TangentialGuidance,
    ZeroStarGuidance,
    only,
)
from tests.families import flux, stable_diffusion_3
from tests.laws.strategies import run, same_run
from tests.stock_pipelines import attached, instruct_pix2pix

SCALED = [AdaptiveProjectedGuidance, MagnitudeAwareGuidance, TangentialGuidance, ZeroStarGuidance]
EVERY = [*SCALED, FrequencyDecoupledGuidance]
few = settings(max_examples=3)

PLAIN = {
    "apg": lambda scale: AdaptiveProjectedGuidance(scale, momentum=0.0, norm=0.0, eta=1.0),
    "magnitude": lambda scale: MagnitudeAwareGuidance(scale, alpha=0.0),
    "frequencies": lambda scale: FrequencyDecoupledGuidance([scale, scale]),
}


def noise_of(model, *hooks, **changed):
    recorder = LatentRecorder(keep=("noise_pred",))
    return run(model, *hooks, recorder, **changed)[recorder]["noise_pred"]


@pytest.mark.parametrize("name", PLAIN)
@few
@given(scale=st.sampled_from([0.0, 2.0, 7.5]), width=st.sampled_from([16, 24]))
def test_without_what_is_its_own_each_is_classifier_free_guidance(tiny, name, scale, width):
    case = {"images_per_prompt": 2, "steps": 1, "width": width, "height": 16}
    ours, plain = (noise_of(tiny, hook, **case) for hook in (PLAIN[name](scale), Guidance(scale)))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SCALED)
def test_the_scale_is_the_run_s_own_or_another_by_step(tiny, kind):
    assert same_run(run(tiny, kind(), guidance_scale=5.0), run(tiny, kind(5.0), guidance_scale=3.0))
    by_list = run(tiny, kind([5.0, 1.0]))
    assert same_run(by_list, run(tiny, kind(lambda step: 5.0 - 4.0 * step.index)))
    with pytest.raises(ValueError, match="3 scales for 2 calls of the denoiser"):
        run(tiny, kind([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("kind", EVERY)
def test_at_scale_1_it_is_the_prediction_with_the_prompt(tiny, kind):
    hook = kind([1.0, 1.0]) if kind is FrequencyDecoupledGuidance else kind(1.0)
    found, cond = noise_of(tiny, hook, steps=1), noise_of(tiny, Guidance(1.0), steps=1)
    torch.testing.assert_close(found, cond, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", EVERY)
def test_each_picture_is_guided_by_itself(tiny, kind):
    case = {"prompt": ["a star", "a ring"], "steps": 3}
    plain, whole, part = (run(tiny, *own, **case) for own in ([], [kind()], [only(kind(), rows=[1])]))
    assert torch.equal(part.latents[0], plain.latents[0])
    torch.testing.assert_close(part.latents[1], whole.latents[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(part.latents[1], plain.latents[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", EVERY)
def test_what_it_cannot_do_it_refuses(tiny, kind):
    with pytest.raises(ValueError, match="no two predictions to combine: StableDiffusion at guidance_scale 1 is not"):
        run(tiny, kind(), guidance_scale=1.0)
    with pytest.raises(ValueError, match="Flux at guidance_scale 3 is not asked what it says without the prompt"):
        run(_flux(), kind())


@lru_cache
def _flux():
    return sdprobe.load(flux())


def test_three_predictions_are_refused():
    with pytest.raises(ValueError, match=r"makes three \(cond, image, uncond\): use Guidance for another"):
        attached(instruct_pix2pix(), TangentialGuidance())


def test_no_move_at_first_is_for_flows(tiny):
    """With a velocity of zero the latents stay as they are; a noise of zero is none."""
    flow, recorder = sdprobe.load(stable_diffusion_3(with_t5=False)), LatentRecorder(keep=("latents",))
    for count in (None, 1, 2):
        seen = run(flow, ZeroStarGuidance(zero_steps=count), recorder, steps=4)[recorder]["latents"]
        still = [torch.equal(a, b) for a, b in pairwise(seen)]
        assert still[: count or 1] == [True] * (count or 1)
        assert not any(still[count or 1 :])
    for scheduler in ("DDIM", "EulerDiscrete"):
        own, none = (run(tiny, ZeroStarGuidance(zero_steps=n), scheduler=scheduler) for n in (None, 0))
        assert same_run(own, none)


def test_in_a_run_from_an_image_no_step_is_zero(tiny):
    from_image = {"image": torch.zeros(1, 4, 8, 8), "start_step": 1, "steps": 3, "height": 16, "width": 16}
    own, none = (run(tiny, ZeroStarGuidance(zero_steps=count), **from_image) for count in (2, 0))
    assert same_run(own, none)


@pytest.mark.parametrize("kind", EVERY)
def test_a_step_whose_guidance_is_cut_off_is_left_as_it_is(tiny, kind):
    hook = kind(zero_steps=1) if kind is ZeroStarGuidance else kind()
    cut = only(sdprobe.CutGuidance(), steps=[0])
    plain, seen = (noise_of(tiny, cut, *own, steps=3) for own in ([], [hook]))
    assert torch.equal(seen[0], plain[0])
    assert not torch.allclose(seen[1], plain[1], atol=1e-3)


def test_errors():
    with pytest.raises(ValueError, match="space is 'output' or 'x0', not 'y'"):
        AdaptiveProjectedGuidance(space="y")
    with pytest.raises(ValueError, match="0 for no limit, and not -1"):
        AdaptiveProjectedGuidance(norm=-1)
    with pytest.raises(ValueError, match="counts the first steps, and is not -1"):
        ZeroStarGuidance(zero_steps=-1)
    with pytest.raises(ValueError, match="two scales or more"):
        FrequencyDecoupledGuidance([3.0])
    with pytest.raises(ValueError, match="3 weights for 2 levels"):
        FrequencyDecoupledGuidance(parallel=[1.0, 1.0, 1.0])
