"""A region on another grid: at least half covered, as where transforms choose places."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.experiments.measures.mask_on_grid import mask_on_grid


def random_mask(seed: int, size: int = 64) -> torch.Tensor:
    return torch.rand(size, size, generator=torch.Generator().manual_seed(seed)) > 0.5


def test_a_mask_of_its_own_size_stays_as_it_is():
    mask = random_mask(0)
    assert torch.equal(mask_on_grid(mask, (64, 64)), mask)


def test_made_larger_and_smaller_it_is_the_same():
    mask = random_mask(1, 16)
    assert torch.equal(mask_on_grid(mask_on_grid(mask, (64, 64)), (16, 16)), mask)


def test_places_are_those_that_a_patch_would_choose(embedded):
    """Ablating the places of a mask to zero leaves zeros where `mask_on_grid` says, and nowhere else."""
    mask, name = random_mask(2), "up_blocks.2.resnets.0"
    ablate, seen = sdprobe.Ablate(name, places=mask), sdprobe.Activations(modules=name)
    run = sdprobe.sample(embedded, "a red circle", hooks=[ablate, seen], steps=1, seed=0, progress=False)
    kept = run[seen].at(0, name)[0]
    assert torch.equal((kept == 0).all(0), mask_on_grid(mask, tuple(kept.shape[-2:])))


def test_half_of_a_place_is_enough_and_less_is_not():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, :2] = True
    mask[2, 2] = True
    assert mask_on_grid(mask, (2, 2)).tolist() == [[True, False], [False, False]]
    with pytest.raises(ValueError, match="covers no place of the 1×1 by half"):
        mask_on_grid(mask, (1, 1))


def test_a_place_of_a_video_is_that_of_all_frames_decoded_from_it():
    """Of 5 frames the latents have 3: 1 + 2 + 2."""
    mask = torch.stack([random_mask(k, 8) for k in range(5)])
    found = mask_on_grid(mask, (3, 4, 4))
    assert torch.equal(found[0], mask_on_grid(mask[0], (4, 4)))
    for frame, own in ((1, mask[1:3]), (2, mask[3:5])):
        counts = own.reshape(2, 4, 2, 4, 2).sum((0, 2, 4))
        assert torch.equal(found[frame], counts >= 4)
    assert torch.equal(mask_on_grid(mask[:1].expand(5, 8, 8), (3, 4, 4)), mask_on_grid(mask[0], (3, 4, 4)))
    with pytest.raises(ValueError, match="a mask of 5 frames, and 4×4 is a grid of an image"):
        mask_on_grid(mask, (4, 4))


def test_another_ratio_is_refused():
    with pytest.raises(ValueError, match="64×64, which does not fit 16×32"):
        mask_on_grid(random_mask(0), (16, 32))
