"""One look is one call of the denoiser on a noised picture."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe.sampling.add_noise import add_noise
from sdprobe.sampling.look import look
from sdprobe.shapes import Object, render

PICTURE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")


class Seen(sdprobe.Observer):
    def start(self, run):
        self.steps = []
        self.denoised = []

    def noise_pred(self, x, step):
        self.steps.append(step)
        self.denoised.append(step.denoised(x))


@pytest.mark.parametrize("timestep", [0, 1, 400, 999])
@pytest.mark.parametrize("model", ["tiny", "tiny_v"])
def test_one_look_is_one_call_at_that_timestep(request, model, timestep):
    own, seen, maps = request.getfixturevalue(model), Seen(), sdprobe.AttentionMaps()
    result = look(own, torch.zeros(1, 4, 8, 8), "a red star", timestep=timestep, hooks=[seen, maps], seed=3)
    (step,) = result[seen].steps
    table = own.pipe.scheduler.alphas_cumprod
    assert step.timestep == timestep
    assert step.sigma == pytest.approx(float(((1 - table[timestep]) / table[timestep]) ** 0.5), rel=1e-4)
    assert torch.equal(step.latents, add_noise(own, torch.zeros(1, 4, 8, 8), timestep=timestep, seed=3))
    assert torch.equal(result.latents, result[seen].denoised[0])  # the picture is predicted x0
    assert result[maps].heat_map("star").values.shape == (8, 8)


def test_looks_through_several_noises(tiny):
    maps = sdprobe.AttentionMaps()
    several = look(tiny, PICTURE, ["a star"] * 2, timestep=300, seed=[1, 2], hooks=[maps])
    for i, seed in enumerate((1, 2)):
        alone = look(tiny, PICTURE, "a star", timestep=300, seed=seed, hooks=[maps])
        assert torch.allclose(several.latents[i], alone.latents[0], atol=1e-4)
        assert torch.allclose(
            several[maps].heat_map("star", image=i).values, alone[maps].heat_map("star").values, atol=1e-5
        )


def test_a_look_finds_the_object(embedded):
    """On a picture that the model never made, the map of a word lies on its object."""
    own = render([Object("circle", "red", (16, 32), 11), Object("square", "blue", (48, 32), 11)])
    maps = sdprobe.AttentionMaps()
    result = look(embedded, own.image, [own.caption] * 4, 500, hooks=[maps], seed=[0, 1, 2, 3])
    for i in range(4):
        for word, mask in zip(("red", "blue"), own.masks, strict=True):
            assert result[maps].heat_map(word, image=i).points_into(torch.from_numpy(mask))


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_a_timestep_beyond_training_is_refused(tiny, timestep):
    with pytest.raises(ValueError, match=f"lies between 0 and 999, not {timestep}"):
        look(tiny, PICTURE, "a star", timestep=timestep)


@pytest.mark.parametrize("timestep", [[100, 200], 100.0, "100", None])
def test_a_look_is_at_one_timestep(tiny, timestep):
    with pytest.raises(ValueError, match="timestep is one whole number for the one call, not"):
        look(tiny, Image.new("RGB", (16, 16)), "a star", timestep)


def test_what_the_one_call_determines_is_no_setting(tiny):
    with pytest.raises(ValueError, match="one call of the denoiser at one timestep, which determines steps, strength"):
        look(tiny, PICTURE, "a star", 300, steps=3, strength=0.5)
