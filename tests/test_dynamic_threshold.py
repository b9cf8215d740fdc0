"""`DynamicThreshold`: predicted x0 within bounds of its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdprobe
from sdprobe import Guidance, RescaleGuidance
from sdprobe.testing import footprint
from sdprobe.transform.guidances.dynamic_threshold import DynamicThreshold
from tests.laws.strategies import run, same_run
from tests.test_perturbed_attention import cases


class Denoised(sdprobe.Observer):
    """Predicted x0 of every step: guided, after the hooks, and before them."""

    def start(self, run):
        self.before, self.after = [], []

    def noise_pred(self, x, step):
        guided = step.run.model.guide(step.model_output, step.rows, step.run.settings.guidance_scale)
        self.before.append(step.denoised(guided))
        self.after.append(step.denoised(x))


@pytest.mark.parametrize("which", ["tiny", "tiny_v"])
@settings(max_examples=6)
@given(case=cases, percentile=st.sampled_from([0.5, 0.9, 0.995, 1.0]), bound=st.floats(0.1, 3))
def test_it_is_its_formula(request, which, case, percentile, bound):
    """Saharia et al. 2022, figure A.10 (c), for any bound; the percentile by counting."""
    denoised = Denoised()
    seen = run(request.getfixturevalue(which), DynamicThreshold(percentile, bound), denoised, **case)[denoised]
    for before, after in zip(seen.before, seen.after, strict=True):
        for x0, found in zip(before, after, strict=True):
            size = x0.abs().flatten().sort().values
            at = percentile * (len(size) - 1)
            low, high = size[int(at)], size[min(int(at) + 1, len(size) - 1)]
            s = max(float(low + (at - int(at)) * (high - low)), bound)
            torch.testing.assert_close(found, x0.clamp(-s, s) / s * bound, rtol=1e-3, atol=1e-3 * bound)


@settings(max_examples=6)
@given(case=cases)
def test_within_the_bound_nothing_changes(tiny, case):
    assert same_run(run(tiny, DynamicThreshold(0.9, bound=1e4), **case), run(tiny, **case))


def mimic(scale):
    """A bound: the largest |x0| under another scale of guidance."""

    def bound(step):
        guided = step.run.model.guide(step.model_output, step.rows, scale)
        return step.denoised(guided).abs().amax((1, 2, 3))

    return bound


def test_a_bound_may_be_a_function_of_the_step_with_one_for_each_image(tiny):
    given_ = {"prompt": ["a star", "a ring"], "guidance_scale": 50.0}
    denoised = Denoised()
    squeezed = run(tiny, DynamicThreshold(1.0, mimic(1.0)), denoised, **given_)[denoised]
    milder = run(tiny, Guidance(1.0), denoised, **given_)[denoised]
    before, after, wanted = (x0[0].abs().amax((1, 2, 3)) for x0 in (squeezed.before, squeezed.after, milder.after))
    torch.testing.assert_close(after, wanted.minimum(before), rtol=1e-4, atol=1e-4)
    assert (after < before).any()
    assert same_run(run(tiny, DynamicThreshold(1.0, mimic(50.0)), **given_), run(tiny, **given_))


def test_it_acts_on_what_hooks_before_it_made(tiny):
    by_hook = run(tiny, Guidance(9.0), DynamicThreshold(0.9), guidance_scale=3.0)
    assert same_run(by_hook, run(tiny, DynamicThreshold(0.9), guidance_scale=9.0))
    one, other = RescaleGuidance(0.7), DynamicThreshold(0.9)
    assert not same_run(run(tiny, one, other), run(tiny, other, one))


def test_errors(tiny):
    with pytest.raises(ValueError, match=r"percentile lies above 0 and up to 1, not at 99\.5"):
        DynamicThreshold(99.5)
    with pytest.raises(ValueError, match="bound is above 0, not 0"):
        DynamicThreshold(bound=0)
    before = footprint(tiny.pipe)
    with pytest.raises(ValueError, match=r"bound is above 0; at step 1 it is \[0\.0\]"):
        run(tiny, DynamicThreshold(bound=lambda step: 1 - step.index))
    assert footprint(tiny.pipe) == before
