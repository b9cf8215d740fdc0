"""Noised latents are those that a run from a picture begins with."""

from __future__ import annotations

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe.model.diffusion.schedulers import SCHEDULERS
from sdprobe.sampling.add_noise import add_noise
from sdprobe.sampling.encode_decode import encode
from sdprobe.sampling.schedule import schedule
from tests.laws.strategies import run
from tests.parity.test_stable_diffusion import scheduler_for

X0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
# diffusers cannot start these from a picture
UNFIT = {"EDMEulerScheduler", "DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"}


class First(sdprobe.Observer):
    def start(self, run):
        self.entered = []

    def noise_pred(self, x, step):
        self.entered.append(step.latents)


@pytest.mark.parametrize("name", sorted(SCHEDULERS - UNFIT))
@pytest.mark.parametrize("skipped", [0, 2])
def test_it_is_where_image_to_image_begins(tiny, name, skipped):
    """To the last bit, with the same seed."""
    made, steps, watch = scheduler_for(tiny.pipe, name), 6, First()
    strength = (steps - skipped) / steps
    entered = run(tiny, watch, image=X0, strength=strength, steps=steps, seed=9, scheduler=made)[watch].entered[0]
    noised = add_noise(tiny, X0, skipped * made.order, steps=steps, scheduler=made, seed=9)
    if name == "SASolverScheduler":  # its add_noise reads another table than its steps, the same but for rounding
        assert torch.allclose(noised, entered, atol=1e-6)
    else:
        assert torch.equal(noised, entered)


@given(step=st.integers(0, 5), name=st.sampled_from(["DDIM", "LMS", "UniPCMultistep", "Heun"]))
def test_what_is_added_is_the_noise_of_the_seed(tiny, step, name):
    own = schedule(tiny, 6, name)
    noised = add_noise(tiny, X0, step, steps=6, scheduler=name, seed=2)
    noise = torch.randn(X0.shape, generator=torch.Generator().manual_seed(2))
    assert torch.allclose((noised - own.signal[step] * X0) / own.noise[step], noise, atol=1e-4)


@given(scale=st.floats(-3, 3), step=st.integers(0, 5))
def test_it_is_linear(tiny, scale, step):
    """The noise is the same for any picture."""
    settings = {"step": step, "steps": 6, "seed": 1}
    at_0, at_1 = (add_noise(tiny, X0 * factor, **settings) for factor in (0.0, 1.0))
    assert torch.allclose(add_noise(tiny, X0 * scale, **settings), at_0 + scale * (at_1 - at_0), atol=1e-5)


@given(timestep=st.integers(0, 999))
def test_any_timestep_of_training(tiny, timestep):
    """As training noises it, by diffusers' own hand; up to the rounding of betas that are multiplied up again."""
    noised = add_noise(tiny, X0, timestep=timestep, seed=0)
    noise = torch.randn(X0.shape, generator=torch.Generator().manual_seed(0))
    own = diffusers.DDPMScheduler.from_config(tiny.pipe.scheduler.config)
    assert torch.allclose(noised, own.add_noise(X0, noise, torch.tensor([timestep])), atol=1e-5)


def test_a_seed_for_each_image(tiny):
    both = torch.cat([X0, X0])
    noised = add_noise(tiny, both, 2, steps=5, seed=[3, 4])
    assert torch.equal(noised[1:], add_noise(tiny, X0, 2, steps=5, seed=4))


def test_type_and_input_stay(tiny):
    half = X0.half()
    before = half.clone()
    assert add_noise(tiny.pipe, half, 0, steps=2).dtype == torch.float16
    assert torch.equal(half, before)


def test_refused(tiny):
    for step in (-1, 5):
        with pytest.raises(ValueError, match=f"step {step} is not in this schedule of 5 calls"):
            add_noise(tiny, X0, step, steps=5)
    for where in ({}, {"step": 1, "timestep": 3}):
        with pytest.raises(ValueError, match="give either a step or a timestep"):
            add_noise(tiny, X0, **where)
    with pytest.raises(ValueError, match="a timestep of this model lies between 0 and 999, not 1000"):
        add_noise(tiny, X0, timestep=1000)
    with pytest.raises(ValueError, match="knows no steps or scheduler"):
        add_noise(tiny, X0, timestep=10, steps=5)


def test_a_picture_drowns_and_is_rescued(embedded):
    """The more noise, the less of the picture; from little noise the model brings back what it was."""
    from sdprobe.shapes import Object, render

    own = render([Object("circle", "red", (32, 32), 14)], background="white")
    encoded = encode(embedded, own.image)
    apart = [float((add_noise(embedded, encoded.mean, s, steps=8) - encoded.mean).square().mean()) for s in range(8)]
    assert apart == sorted(apart, reverse=True)
    rescued = [
        sdprobe.sample(
            embedded, own.caption, image=encoded.mean, strength=strength, steps=8, seed=0, progress=False
        ).images[0]
        for strength in (0.25, 1.0)
    ]
    near, far = (float(sdprobe.psnr(picture, encoded.pixels)) for picture in rescued)
    assert near > far + 3
