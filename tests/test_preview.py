"""`Preview`: pictures of what passes, in the right places and at the right scale."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sdprobe
from sdprobe import Preview
from sdprobe.model.toy_model import toy_model
from sdprobe.sampling.encode_decode import decode
from tests.laws.strategies import run, same_run

PROMPTS = ["a red circle left of a blue square", "a green star on a black background", "a yellow ring", "a cyan square"]


@pytest.fixture(scope="module")
def made(embedded):
    """Four pictures of the embedded model: their latents, and their pixels at the latents' size."""
    result = sdprobe.sample(embedded, PROMPTS, steps=15, guidance_scale=5.0, seed=0, progress=False)
    pixels = decode(embedded, result.latents)
    return result.latents, F.interpolate(pixels, size=result.latents.shape[-2:], mode="area")


def root_mean_square(x):
    return float(x.square().mean().sqrt())


def test_the_linear_picture_is_about_as_near_as_a_linear_one_can_be(embedded, made):
    """The reference is the best linear map for these very pictures; the model's was fitted to others."""
    latents, pixels = made
    columns = F.pad(latents.movedim(1, -1), (0, 1), value=1.0).flatten(0, 2)
    best = columns @ torch.linalg.lstsq(columns, pixels.movedim(1, -1).flatten(0, 2)).solution
    least = root_mean_square(best - pixels.movedim(1, -1).flatten(0, 2))
    error = root_mean_square(embedded.linear_rgb(latents) - pixels)
    assert error < 1.5 * least
    assert error < 0.5 * root_mean_square(pixels.mean((2, 3), keepdim=True) - pixels)


def test_the_map_is_fitted_once(embedded, made):
    latents, _ = made
    first = embedded.linear_rgb(latents)
    other = sdprobe.load(embedded.pipe)
    calls = []
    handle = embedded.pipe.vae.encoder.register_forward_hook(lambda *seen: calls.append(seen))
    try:
        assert torch.equal(other.linear_rgb(latents), first)
    finally:
        handle.remove()
    assert calls == []


def test_equal_models_have_the_very_same_map_whoever_fits_it():
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(2) as threads:
        first, *others = threads.map(lambda model: model.linear_rgb(latents), [toy_model() for _ in range(12)])
    assert all(torch.equal(first, other) for other in others)


def test_the_decoder_s_pictures_are_the_decoder_s(tiny):
    preview, recorder = Preview(decoder="vae"), sdprobe.LatentRecorder(keep=("latents", "denoised"))
    result = run(tiny, preview, recorder, steps=3, images_per_prompt=2)
    for name in ("latents", "denoised"):
        for step, pictures in enumerate(result[preview][name]):
            expected = tiny.pictures(decode(tiny, result[recorder][name][step]))
            assert [p.tobytes() for p in pictures] == [p.tobytes() for p in expected]
    assert [p.tobytes() for p in result[preview].final] == [p.tobytes() for p in result.images]


def test_noisy_latents_are_shown_at_the_same_scale_under_every_scheduler(embedded):
    """At the highest noise almost nothing but noise is there, whatever scale the scheduler keeps it in."""
    shown = []
    for name in ("DDIM", "EulerDiscrete"):
        preview = Preview(keep=("latents",))
        result = sdprobe.sample(
            embedded, "a star", hooks=[preview], scheduler=name, steps=5, seed=0, progress=False, guidance_scale=3.0
        )
        shown.append(np.asarray(result[preview]["latents"][0][0], dtype=float))
    assert np.abs(shown[0] - shown[1]).mean() < 2


def test_show_is_called_as_it_goes(tiny):
    seen = []
    preview = Preview(keep=("denoised",), show=lambda pictures: seen.append([p.tobytes() for p in pictures]))
    result = run(tiny, preview, steps=3)
    assert seen == [[p.tobytes() for p in pictures] for pictures in result[preview]["denoised"]]


def test_only_some_steps(tiny):
    preview = Preview()
    result = run(tiny, sdprobe.only(preview, steps={0, 2}), steps=3)
    assert result[preview].indices == [0, 2]
    assert len(result[preview]["denoised"]) == 2
    assert sdprobe.film(result[preview]).steps == (0, 2)


def test_drawing_from_torch_s_own_generator_is_left_to_others(tiny):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    run(tiny, Preview(), Preview(decoder="vae"))
    assert torch.equal(torch.rand(4), expected)


def test_previews_change_nothing(tiny):
    assert same_run(run(tiny, Preview(), Preview(decoder="vae")), run(tiny))


def test_errors(tiny):
    with pytest.raises(ValueError, match="no decoder 'fast'; there are: linear, vae"):
        Preview(decoder="fast")
    with pytest.raises(ValueError, match="what can be shown: latents, denoised"):
        Preview(keep=("noise_pred",))
    preview = Preview(keep=("denoised",))
    result = run(tiny, preview)
    with pytest.raises(KeyError, match="'latents' was not kept"):
        result[preview]["latents"]
