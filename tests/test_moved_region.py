"""`moved_region`: the same shape elsewhere, covering as many places of every grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sdprobe.experiments.moved_region import moved_region

GRIDS = [(16, 16), (8, 8), (4, 4)]


def test_it_covers_as_many_places_of_every_grid():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[5:30, 20:47] = True
    moved = {tuple(own.flatten().tolist()) for seed in range(40) if (own := moved_region(mask, GRIDS, [seed])).any()}
    assert len(moved) > 4
    flat = mask.flatten()
    assert all(sum(a and b for a, b in zip(own, flat.tolist(), strict=True)) == 0 for own in moved)
    for own in map(torch.tensor, moved):
        own = own.view(64, 64)
        assert not torch.equal(own, mask)
        for grid in [*GRIDS, (64, 64)]:
            counts = [(F.adaptive_avg_pool2d(x[None].float(), grid) >= 0.5).sum() for x in (mask, own)]
            assert counts[0] == counts[1]
    assert torch.equal(moved_region(mask, GRIDS, [1]), moved_region(mask, GRIDS, [1]))


def test_in_a_video_every_frame_is_moved_alike():
    masks = torch.zeros(3, 16, 32, dtype=torch.bool)
    for frame in range(3):
        masks[frame, 4:8, 4 * frame : 4 * frame + 6] = True
    moved = moved_region(masks, [(3, 8, 16), (3, 4, 8)], [1])
    moves = [(y, x) for y in range(0, 16, 4) for x in range(0, 32, 4)]
    assert not torch.equal(moved, masks)
    assert any(torch.equal(moved, masks.roll(own, (1, 2))) for own in moves)


def test_what_cannot_be_moved():
    with pytest.raises(ValueError, match="the same wherever it is moved"):
        moved_region(torch.ones(8, 8, dtype=torch.bool), GRIDS, [0])
    with pytest.raises(ValueError, match="coarsest grid, 1×1"):
        moved_region(torch.eye(8) > 0, [(1, 1)], [0])
