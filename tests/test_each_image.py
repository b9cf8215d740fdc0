"""Numbers of images multiply their tensors, of pictures and of videos."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import DynamicThreshold, LossGuidance, WordGradients, ZeroStarGuidance
from sdprobe.core.each_image import each_image
from tests.tiny_models.wan import wan


@pytest.mark.parametrize("size", [(2,), (2, 4), (2, 4, 8, 8), (2, 4, 3, 8, 8)])
def test_every_image_is_multiplied_by_its_own(size):
    x, values = torch.rand(size), torch.tensor([2.0, 3.0])
    assert torch.equal(each_image(values, x) * x, torch.stack([2 * x[0], 3 * x[1]]))


@pytest.fixture(scope="module")
def video():
    return sdprobe.load(wan())


def darkness(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.flatten(1).mean(1)


@pytest.mark.parametrize(
    "hook",
    [DynamicThreshold(), ZeroStarGuidance(), LossGuidance(darkness, 5.0, clip=0.1, normalize=True)],
    ids=lambda hook: type(hook).__name__,
)
def test_two_videos_are_what_each_is_alone(video, hook):
    settings = {"steps": 1, "guidance_scale": 3.0, "frames": 5, "height": 16, "width": 16, "progress": False}
    both = sdprobe.sample(video, "a red star", hooks=[hook], seed=[4, 5], images_per_prompt=2, **settings).latents
    for i, seed in enumerate((4, 5)):
        alone = sdprobe.sample(video, "a red star", hooks=[hook], seed=seed, **settings).latents
        torch.testing.assert_close(both[i], alone[0], rtol=1e-3, atol=1e-4)


def test_gradients_of_two_videos_are_those_of_each_alone(video):
    gradients = WordGradients("red")
    settings = {"steps": 1, "guidance_scale": 3.0, "frames": 5, "height": 16, "width": 16, "progress": False}
    both = sdprobe.sample(video, "a red star", hooks=[gradients], seed=[4, 5], images_per_prompt=2, **settings)
    for i, seed in enumerate((4, 5)):
        alone = sdprobe.sample(video, "a red star", hooks=[gradients], seed=seed, **settings)
        expected = alone[gradients].values("red", "norm")
        torch.testing.assert_close(both[gradients].values("red", "norm", i), expected, rtol=1e-3, atol=1e-6)
