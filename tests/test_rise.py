"""`Rise`: the regression of what the picture loses on where the word was hidden; a picture that is made again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe import HideTokens, attributions
from sdprobe.attributions.rise import random_masks
from tests.families import ASKED, FAMILIES
from tests.laws.strategies import run

RISE = attributions.Rise(masks=5, cells=2)
SETTINGS = {"prompt": "a red circle", "steps": 2, "guidance_scale": 3.0, "seed": 3}


def test_it_is_what_is_lost_with_each_mask(embedded):
    own = run(embedded, **SETTINGS)
    masks = random_masks(5, (16, 16), 2, 0.5, 0)
    plain = np.asarray(own.images[0], dtype=float)
    hidden = [run(embedded, HideTokens("red", places=~mask), **SETTINGS) for mask in masks]
    losses = torch.tensor([np.abs(np.asarray(other.images[0], dtype=float) - plain).mean() for other in hidden])
    off = masks.double() - masks.double().mean(0)
    slopes = ((losses - losses.mean())[:, None, None] * off).sum(0) / off.square().sum(0).clamp_min(1e-9)
    found = RISE.heat_map(own, "red").values.double()
    assert torch.allclose(found, -slopes, atol=0.05 * float(slopes.abs().max()))


def test_a_run_with_transforms_is_made_again_with_them(tiny):
    swap = sdprobe.ReplaceToken("red", with_="blue")
    assert RISE.heat_map(run(tiny, swap, **SETTINGS), "red").values.isfinite().all()


def test_a_picture_that_cannot_be_made_again_is_refused(tiny, tmp_path):
    given = torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"made another one: its latents are .* away"):
        RISE.heat_map(run(tiny, **SETTINGS, latents=given), "red")
    own = run(tiny, **SETTINGS)
    with pytest.raises(ValueError, match="this run has no model"):
        RISE.heat_map(sdprobe.open(own.save(tmp_path / "run")), "red")
    with pytest.raises(ValueError, match="began from an image"):
        RISE.heat_map(run(tiny, **SETTINGS, image=own.images[0], strength=0.5), "red")
    with pytest.raises(ValueError, match="share a seed: give one each"):
        RISE.heat_map(run(tiny, **SETTINGS, images_per_prompt=2), "red")
    with pytest.raises(sdprobe.WordNotInPrompt, match="'star' is not in the prompt"):
        RISE.heat_map(own, "star")
    with pytest.raises(ValueError, match="masks are two or more"):
        attributions.Rise(masks=1)


def test_of_a_video_it_is_what_all_frames_lose():
    model, settings = sdprobe.load(FAMILIES["LTX-Video"]()), SETTINGS | ASKED["LTX-Video"]
    own = run(model, **settings)
    found = RISE.heat_map(own, "red")
    assert found.film().groups == (0,) * own.settings.frames
    masks = random_masks(5, found.size, 2, 0.5, 0)
    again = [own, *(run(model, HideTokens("red", places=~mask), **settings) for mask in masks)]
    first, *others = (np.stack([np.asarray(frame, dtype=float) for frame in made.images]) for made in again)
    losses = torch.tensor([np.abs(other - first).mean() for other in others])
    off = masks.double() - masks.double().mean(0)
    slopes = ((losses - losses.mean())[:, None, None] * off).sum(0) / off.square().sum(0).clamp_min(1e-9)
    assert torch.allclose(found.values.double(), -slopes[None], atol=0.05 * float(slopes.abs().max()))


def test_a_video_is_made_again_with_the_guidance_of_its_second_denoiser():
    own = run(sdprobe.load(FAMILIES["Wan 2.2"]()), **SETTINGS | ASKED["Wan 2.2"])
    assert attributions.Rise(masks=2).heat_map(own, "red").values.isfinite().all()
