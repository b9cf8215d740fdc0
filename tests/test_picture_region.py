"""`PictureRegion`: boxes and masks on any grid, as fractions of each place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdprobe.transform.attention_edits.picture_region import PictureRegion


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.5, 0.5), (0.25, 0.5, 1.0, 1.0), (0.0, 0.125, 0.625, 0.75)])
@pytest.mark.parametrize("grid", [(8, 8), (4, 8), (2, 2), (1, 1), (3, 5)])
def test_a_box_covers_of_a_grid_what_it_covers_of_the_picture(box, grid):
    on = PictureRegion.of(box).on(grid)
    assert on.mean().item() == pytest.approx((box[2] - box[0]) * (box[3] - box[1]))
    assert on.min() >= 0
    assert on.max() <= 1


def test_a_mask_of_a_box_is_the_box():
    box = PictureRegion.of((0.25, 0.5, 1.0, 1.0))
    mask = box.on((16, 16)) > 0.5
    for given in (mask, mask.numpy(), mask.tolist()):
        assert torch.equal(PictureRegion.of(given).on((8, 8)), box.on((8, 8)))


@pytest.mark.parametrize(
    "wrong", [(0, 0, 1), (0.5, 0, 0.5, 1), (0, 0, 2, 1), torch.rand(4, 4), np.zeros((4, 4), bool), "left", None, [[]]]
)
def test_what_is_no_region(wrong):
    with pytest.raises(ValueError, match=r"the region of 'x' is .*\(left, top, right, bottom\)"):
        PictureRegion.of(wrong, "region of 'x'")
