"""The change of final latents, in standard deviations of the untouched ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe.experiments import Case
from sdprobe.experiments.measures import Area, LatentChange, Outside
from sdprobe.experiments.measures.mask_on_grid import mask_on_grid
from tests import families

CASE = Case("a red circle")


def with_latents(run: sdprobe.Run, latents: torch.Tensor) -> sdprobe.Run:
    copied = copy.copy(run)
    copied.latents = latents
    return copied


@pytest.fixture(scope="module")
def runs(embedded):
    return [sdprobe.sample(embedded, CASE.prompt, steps=2, seed=seed, progress=False) for seed in (0, 1)]


def test_none_for_the_same_latents(runs):
    assert LatentChange()(runs[0], runs[0], CASE) == 0


def test_shifted_by_some_deviations_it_is_their_number(runs):
    plain = runs[0]
    shifted = with_latents(plain, plain.latents + 0.7 * plain.latents.std(correction=0))
    assert LatentChange()(shifted, plain, CASE) == pytest.approx(0.7, rel=1e-5)
    assert LatentChange(Area(np.ones((4, 4), bool)))(shifted, plain, CASE) == pytest.approx(0.7, rel=1e-5)


def test_two_independent_draws_are_root_two_apart(runs):
    drawn = [torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    assert LatentChange()(*(with_latents(runs[0], own) for own in drawn), CASE) == pytest.approx(2**0.5, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_squares_inside_and_outside_weighted_by_area_are_the_whole(runs, seed):
    mask = np.random.default_rng(seed).random((16, 16)) < 0.3
    inside, outside, whole = (LatentChange(own)(*runs, CASE) for own in (Area(mask), Outside(Area(mask)), None))
    assert mask.mean() * inside**2 + (1 - mask.mean()) * outside**2 == pytest.approx(whole**2)


def test_a_region_is_the_places_that_it_covers_by_half(runs):
    mask = torch.rand(64, 64, generator=torch.Generator().manual_seed(3)) > 0.5
    there = mask_on_grid(mask, (16, 16))
    apart = (runs[0].latents - runs[1].latents)[0][:, there].square().mean().sqrt()
    assert LatentChange(Area(mask))(*runs, CASE) == pytest.approx(float(apart / runs[1].latents.std(correction=0)))


def test_less_than_half_of_any_place_is_refused(runs):
    mask = np.zeros((64, 64), bool)
    mask[5, 5] = True
    with pytest.raises(ValueError, match="covers no place of the 16×16 by half"):
        LatentChange(Area(mask))(*runs, CASE)


def test_only_a_region_is_taken():
    with pytest.raises(TypeError, match="a region is Detected"):
        LatentChange("circle")


def test_packed_latents_are_measured_where_they_lie_in_the_picture():
    """Flux packs four places in one token; a change of the upper half is a change of the upper half."""
    plain = sdprobe.sample(sdprobe.load(families.flux()), CASE.prompt, steps=1, seed=0, progress=False)
    assert plain.latents.ndim == 4
    changed = plain.latents.clone()
    changed[..., : changed.shape[-2] // 2, :] += 1
    upper = np.zeros((plain.images[0].height, plain.images[0].width), bool)
    upper[: len(upper) // 2] = True
    other = with_latents(plain, changed)
    assert LatentChange(Outside(Area(upper)))(other, plain, CASE) == 0
    assert LatentChange(Area(upper))(other, plain, CASE) == pytest.approx(1 / float(plain.latents.std(correction=0)))
