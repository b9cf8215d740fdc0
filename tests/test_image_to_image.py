"""Where a run from a picture begins."""

from __future__ import annotations

import pytest
import torch

from sdprobe import LatentRecorder
from sdprobe.sampling.add_noise import add_noise
from tests.laws.strategies import run, same_run
from tests.parity.test_stable_diffusion import scheduler_for, schedulers

X0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("start", range(5))
def test_a_start_is_a_strength(tiny, start):
    by_start = run(tiny, image=X0, steps=5, start_step=start)
    assert by_start.settings.start_step == start
    assert same_run(by_start, run(tiny, image=X0, steps=5, strength=min((5 - start) / 5 + 1e-9, 1)))


@pytest.mark.parametrize("name", sorted(set(schedulers()) - {"EDMEulerScheduler"}))
def test_it_begins_with_the_picture_at_the_noise_level_of_that_step(tiny, name):
    scheduler, recorder = scheduler_for(tiny.pipe, name), LatentRecorder()
    entered = run(tiny, recorder, image=X0, steps=5, start_step=2, scheduler=scheduler)[recorder]
    call = 2 * scheduler.order  # a scheduler of second order calls the denoiser twice in a step
    assert torch.equal(entered["latents"][0], add_noise(tiny, X0, call, steps=5, scheduler=scheduler))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_step": 1}, "start_step says where to enter with a picture, but no image is given"),
        ({"image": X0, "start_step": 2}, "start_step 2 is not one of 2 steps"),
        ({"image": X0, "start_step": -1}, "start_step -1 is not one of 2 steps"),
        ({"image": X0, "start_step": 0.5}, "start_step is a whole number"),
        ({"image": X0, "start_step": 1, "strength": 0.5}, "strength and start_step both say where to begin"),
        ({"image": X0, "strength": 1.5}, "strength 1.5 of 2 steps leaves none"),
        ({"image": X0, "strength": -0.5}, "strength -0.5 of 2 steps leaves none"),
    ],
)
def test_errors(tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        run(tiny, **settings)


def test_a_run_from_noise_begins_at_its_first_step(tiny):
    assert run(tiny).settings.start_step == 0
