"""`Preview` and the film made of it: pictures of what passes, in the right places."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sdprobe
from sdprobe import Preview
from sdprobe.autoencoder import decode
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


@pytest.fixture
def film(tiny):
    preview = Preview()
    result = run(tiny, preview, steps=4, images_per_prompt=2)
    return sdprobe.film(result[preview], image=1), result[preview]


def test_a_film_has_the_steps_in_order_and_ends_with_the_picture(film):
    own, preview = film
    assert own.noisy == tuple(pictures[1] for pictures in preview["latents"])
    assert own.denoised == tuple(pictures[1] for pictures in preview["denoised"])
    frames = own.frames(height=48)
    assert len(frames) == 5
    left, right = frames[0].crop((0, 13, 48, 61)), frames[0].crop((51, 13, 99, 61))
    assert left.tobytes() == own.noisy[0].resize((48, 48), Image.Resampling.NEAREST).tobytes()
    assert right.tobytes() == own.denoised[0].resize((48, 48), Image.Resampling.NEAREST).tobytes()
    assert all(side % 16 == 0 for frame in frames for side in frame.size)
    assert frames[-1].crop((0, 13, 48, 61)).tobytes() == frames[-1].crop((51, 13, 99, 61)).tobytes()


def test_a_gif_can_be_read_back(film, tmp_path):
    path = film[0].gif(tmp_path / "run.gif", fps=5, height=48)
    with Image.open(path) as opened:
        assert (opened.n_frames, opened.info["duration"], opened.info["loop"]) == (5, 200, 0)
        for i, frame in enumerate(film[0].frames(height=48)):
            opened.seek(i)
            assert np.abs(np.asarray(opened.convert("RGB"), float) - np.asarray(frame, float)).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["run.gif"]


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs the extra video")
def test_an_mp4_can_be_read_back(film, tmp_path):
    import imageio

    path = film[0].mp4(tmp_path / "run.mp4", fps=5, height=48)
    frames = [frame for frame in imageio.get_reader(path)]  # noqa: C416 - its length is infinite
    assert len(frames) == 5
    assert frames[0].shape[:2] == film[0].frames(height=48)[0].size[::-1]
    written = [np.asarray(frame, float) for frame in film[0].frames(height=48)]
    for i, frame in enumerate(frames):  # compressed, but each nearer to its own than to any other
        assert np.argmin([np.abs(frame - own).mean() for own in written]) == i
    assert [p.name for p in tmp_path.iterdir()] == ["run.mp4"]


def test_without_the_extra_an_mp4_says_what_it_needs(film, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'sdprobe\[video\]', or write a GIF"):
        film[0].mp4(tmp_path / "run.mp4")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_film_that_cannot_be_written(film, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match="there"):
        film[0].gif(tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_a_contact_sheet_goes_from_the_first_step_to_the_last(film):
    figure = film[0].sheet(columns=3)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["step 0", "step 2", "step 3"]
    assert len(film[0].sheet(columns=20).axes) == 8


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
    with pytest.raises(ValueError, match="did not keep latents"):
        sdprobe.film(result[preview])
    both = Preview()
    with pytest.raises(ValueError, match="image 1 is not in this run of 1 images"):
        sdprobe.film(run(tiny, both)[both], image=1)
    with pytest.raises(AttributeError, match="what happened is held by the run"):
        sdprobe.film(both)
