"""`random_field`: the same spectrum, another map, and the same one from the same seed."""

from __future__ import annotations

import pytest
import torch

from sdprobe import HeatMap
from sdprobe.experiments.random_field import random_field


def power(values):
    return torch.fft.fft2(values.double()).abs()


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (7, 5), (1, 1)])
def test_the_power_spectrum_is_that_of_the_map(size):
    heat = HeatMap(torch.rand(size, generator=torch.Generator().manual_seed(0)), "red")
    fields = [random_field(heat, seed).values for seed in (0, 1, [0, 1])]
    for own in fields:
        assert torch.allclose(power(own), power(heat.values), atol=1e-4)
        assert torch.allclose(own.mean(), heat.values.mean(), atol=1e-6)
        assert own.shape == heat.values.shape
        assert own.dtype == heat.values.dtype
    if size != (1, 1):
        assert not torch.allclose(fields[0], fields[1], atol=0.01)
    assert torch.equal(random_field(heat, 0).values, fields[0])


def test_a_smooth_map_gives_smooth_fields():
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    spot = torch.exp(-((rows - 5) ** 2 + (columns - 9) ** 2) / 18)

    def roughness(values):
        return ((values - values.roll(1, 0)) ** 2).mean() / values.var()

    fields = torch.stack([random_field(HeatMap(spot), seed).values for seed in range(20)])
    assert torch.allclose(torch.stack([*map(roughness, fields)]), roughness(spot).expand(20), atol=1e-3)
    assert roughness(torch.rand(16, 16)) > 5 * roughness(spot)


def test_a_map_of_nothing_stays_one():
    assert random_field(HeatMap(torch.zeros(4, 4)), 0).values.eq(0).all()


def test_of_a_video_the_spectrum_is_also_that_of_time():
    heat = HeatMap(torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)), "red")
    field = random_field(heat, 0).values
    powers = [torch.fft.fftn(own.double()).abs() for own in (heat.values, field)]
    assert torch.allclose(*powers, atol=1e-4)
    assert not torch.allclose(field, heat.values, atol=0.01)
