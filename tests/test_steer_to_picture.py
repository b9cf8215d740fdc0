"""Steering to a picture: the prediction moves towards the one that leads there."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.families import FAMILIES
from tests.tiny import stable_diffusion

SETTINGS = {"steps": 3, "guidance_scale": 3.0, "seed": 0, "height": 16, "width": 16, "progress": False}


def target(model, images=1):
    found = torch.randn(images, model.channels, 8, 8, generator=torch.Generator().manual_seed(5))
    return found


class Denoised(sdprobe.Observer):
    def start(self, run):
        self.seen = []

    def noise_pred(self, x, step):
        self.seen.append(step.denoised(x))


@pytest.mark.parametrize(
    "pipeline",
    [
        stable_diffusion,
        lambda: stable_diffusion(prediction_type="v_prediction"),
        FAMILIES["Stable Diffusion XL"],
        FAMILIES["Stable Diffusion 3.5"],
        FAMILIES["Flux.1 dev"],
    ],
    ids=["noise", "v", "Euler", "flow", "packed flow"],
)
def test_predicted_x0_moves_by_eta(pipeline):
    """Whatever the network predicts; and with eta 1 the run ends in the picture."""
    model, denoised = sdprobe.load(pipeline()), Denoised()
    x0 = target(model)
    plain = sdprobe.sample(model, "a star", hooks=[denoised], **SETTINGS)[denoised].seen[0]
    hooks = [sdprobe.SteerToPicture(x0, 0.25), denoised]
    steered = sdprobe.sample(model, "a star", hooks=hooks, **SETTINGS)[denoised].seen[0]
    assert torch.allclose(steered, plain + 0.25 * (x0 - plain), atol=1e-4 * float(plain.abs().max()) + 1e-4)
    last = sdprobe.sample(model, "a star", hooks=[sdprobe.SteerToPicture(x0, 1.0)], **SETTINGS)
    assert torch.allclose(last.latents, x0, atol=0.15)  # DDIM of the toy ends with a little noise
    off = sdprobe.sample(model, "a star", hooks=[sdprobe.SteerToPicture(x0, 0)], **SETTINGS)
    assert torch.equal(off.latents, sdprobe.sample(model, "a star", **SETTINGS).latents)


def test_in_a_flow_it_is_the_controller_of_the_paper():
    model = sdprobe.load(FAMILIES["Flux.1 dev"]())
    kept = sdprobe.LatentRecorder(keep=("latents", "noise_pred"))
    x0 = target(model)
    plain = sdprobe.sample(model, "a star", hooks=[kept], **SETTINGS)
    steered = sdprobe.sample(model, "a star", hooks=[kept, sdprobe.SteerToPicture(x0, 0.9)], **SETTINGS)
    first, x = plain[kept].at(0)["noise_pred"], plain[kept].at(0)["latents"]
    expected = first + 0.9 * ((x - x0) / float(plain.schedule.sigmas[0]) - first)
    assert torch.allclose(steered[kept].at(0)["noise_pred"], expected, atol=1e-5)


def test_a_picture_for_each_image(tiny):
    x0 = target(tiny, 2)
    both = sdprobe.sample(tiny, ["a star"] * 2, hooks=[sdprobe.SteerToPicture(x0)], **SETTINGS)
    for i in range(2):
        hook = sdprobe.SteerToPicture(x0[i : i + 1])
        limited = sdprobe.only(hook, rows=lambda row, i=i: row.image == i)
        alone = sdprobe.sample(tiny, ["a star"] * 2, hooks=[limited], **SETTINGS)
        assert torch.allclose(both.latents[i], alone.latents[i], atol=1e-4)


def test_refused(tiny):
    for picture, why in [
        (target(tiny, 2), "2 pictures for 1 images"),
        (torch.zeros(1, 3, 8, 8), "latents of 3 channels, but this model's have 4"),
        (torch.zeros(1, 3, 32, 32), "latents are 16×16, but the run's are 8×8: give a picture of 16×16 px"),
    ]:
        with pytest.raises(ValueError, match=why):
            sdprobe.sample(tiny, "a star", hooks=[sdprobe.SteerToPicture(picture)], **SETTINGS)
    for eta in (-0.1, 1.5, [0.5, 2.0, 0.5], float("nan")):
        with pytest.raises(ValueError, match=r"eta lies between 0, which changes nothing, and 1|not finite|NaN|nan"):
            sdprobe.SteerToPicture(target(tiny), eta)
    with pytest.raises(ValueError, match="which is the picture, not at 2"):
        sdprobe.sample(tiny, "a star", hooks=[sdprobe.SteerToPicture(target(tiny), lambda step: 2)], **SETTINGS)
