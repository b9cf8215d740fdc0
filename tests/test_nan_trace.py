"""Latents that are no numbers: the run says so at its end, and where it began."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import attach
from sdprobe.core.nan_trace import NanTrace
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

NAN = float("nan")


def spoil(point, at):
    """A transform that makes values NaN at one point, in one step."""
    return sdprobe.only(sdprobe.on(point, lambda x: x * NAN), steps=at)


@pytest.mark.parametrize("point", ["latents", "model_output", "noise_pred", "sample"])
@pytest.mark.parametrize("at", [0, 2])
def test_the_step_and_the_hook_are_named(tiny, point, at):
    same = sdprobe.on(point, lambda x: x + 0)
    with pytest.warns(UserWarning, match=rf"That began in only\(on\('{point}'.*\)\.{point}, step {at} of 4"):
        result = run(tiny, same, spoil(point, at), same, steps=4)
    assert result.latents.isnan().all()


@pytest.mark.parametrize("point", ["token_embeds", "prompt_embeds"])
def test_a_change_of_the_text_is_named(tiny, point):
    with pytest.warns(UserWarning, match=rf"That began in on\('{point}', .*\)\.{point}$"):
        run(tiny, sdprobe.on(point, lambda x: x * NAN))


def test_what_no_hook_did_is_said_too():
    pipe = stable_diffusion()
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(NAN)
    with pytest.warns(UserWarning, match="That began in step 0, before step 1"):
        sdprobe.sample(pipe, "a star", steps=3, seed=0, progress=False)
    with pytest.warns(UserWarning, match="in the last step, in what the denoiser or the scheduler made"):
        sdprobe.sample(pipe, "a star", steps=1, seed=0, progress=False)


def test_attached_too():
    pipe = stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    with attach(pipe, spoil("noise_pred", 1)), pytest.warns(UserWarning, match="noise_pred, step 1 of 3"):
        pipe("a star", num_inference_steps=3)


def test_what_is_mended_on_the_way_is_no_fault(tiny):
    mends = sdprobe.on("noise_pred", lambda x: x.nan_to_num())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tiny, spoil("noise_pred", 1), mends).latents.isfinite().all()
        assert run(tiny).latents.isfinite().all()


@given(
    broken=st.sampled_from([NAN, float("inf"), -float("inf")]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    size=st.sampled_from([1, 7, 256, 4099]),
    at=st.floats(0, 1, exclude_max=True),
)
def test_one_value_anywhere_is_enough(broken, dtype, size, at):
    trace, x = NanTrace(), torch.randn(1, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    trace.note(x, lambda: "before")
    assert trace.first_broken is None
    x = x.clone()
    x[0, int(at * size)] = broken
    trace.note(x, lambda: "here")
    assert trace.first_broken == "here"
    with pytest.warns(UserWarning, match="That began here"):
        trace.warn(x)


def test_what_is_no_number_of_that_kind_breaks_nothing():
    trace = NanTrace()
    for x in (torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), torch.ones(0)):
        trace.note(x, str)
    assert trace.first_broken is None
