"""A scheduler is set twice, first where it can be read: it is as if set once, and its numbers are those it has."""

from __future__ import annotations

from functools import partial

import diffusers
import pytest
import torch

import sdprobe
from sdprobe import attach
from sdprobe.model.diffusion.noise_levels import denoised, level_at, level_device, output_for, step_levels
from sdprobe.model.diffusion.schedulers import FLOWS, SCHEDULERS
from sdprobe.model.diffusion.set_and_read import call_and_read, set_and_read
from tests.families import FAMILIES
from tests.test_noise_levels import scheduler
from tests.tiny import stable_diffusion

META = torch.device("meta")
UNREAD = ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler", "DPMSolverMultistepScheduler", *FLOWS)
"""Those that set themselves on a device without reading from it."""


def of(name):
    return getattr(diffusers, name)() if name in FLOWS else scheduler(name)


def tables(made):
    return {name: value for name, value in vars(made).items() if isinstance(value, (torch.Tensor, int, float, list))}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return all(equal(*pair) for pair in zip(a, b, strict=True)) if isinstance(a, list) else a == b


@pytest.mark.parametrize("name", sorted(SCHEDULERS | FLOWS))
def test_set_twice_is_set_once(name):
    once, twice = of(name), of(name)
    for made, times in ((once, 1), (twice, 2)):
        for _ in range(times):
            made.set_timesteps(6)
    assert tables(once).keys() == tables(twice).keys()
    assert all(equal(value, tables(twice)[key]) for key, value in tables(once).items())


@pytest.mark.parametrize("name", sorted(SCHEDULERS | FLOWS))
def test_the_numbers_are_the_scheduler_s(name):
    made = of(name)
    found = set_and_read(made, partial(made.set_timesteps, 6), torch.device("cpu"))
    assert [level.timestep for level in found] == made.timesteps.tolist()
    for index, (_, sigma, signal, noise, level) in enumerate(found):
        assert all(torch.equal(a, b) for a, b in zip(level, level_at(made, index), strict=True))
        assert (signal, noise, sigma) == tuple(float(value) for value in level)


@pytest.mark.parametrize("name", sorted(UNREAD))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_nothing_is_read_from_a_device(name, prediction):
    """On torch's meta device nothing can be read, and predicted x0 is computed all the same."""
    made = of(name) if name in FLOWS else scheduler(name, prediction)
    usual = step_levels_of(name)
    found = set_and_read(made, lambda device: made.set_timesteps(6, device=device), META)
    assert made.timesteps.device == META
    assert [own[:4] for own in found] == [own[:4] for own in usual]
    x = torch.zeros(1, 4, 4, 4, device=META)
    for own in found:
        level = own.level.to(level_device(made))
        assert denoised(made, x, x, level).device == output_for(made, x, x, level).device == META
    with pytest.raises(NotImplementedError, match="meta"):
        step_levels(made)


def step_levels_of(name):
    made = of(name)
    made.set_timesteps(6)
    return step_levels(made)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((6,), {}),
        ((6, "meta"), {}),
        ((6,), {"device": "meta"}),
        ((), {"num_inference_steps": 6, "device": torch.device("meta")}),
        ((None, "meta", [900, 500, 20]), {}),
        ((), {"device": "meta", "timesteps": [900, 500, 20]}),
    ],
)
def test_a_call_keeps_its_arguments(args, kwargs):
    made, plain = diffusers.DDPMScheduler(), diffusers.DDPMScheduler()
    found = call_and_read(made, made.set_timesteps, args, kwargs)
    plain.set_timesteps(*args, **kwargs)
    assert made.timesteps.device == plain.timesteps.device
    assert made.num_inference_steps == plain.num_inference_steps
    assert made.custom_timesteps == plain.custom_timesteps
    expected = diffusers.DDPMScheduler()
    expected.set_timesteps(
        *([6] if plain.custom_timesteps is False else []),
        **({"timesteps": [900, 500, 20]} if plain.custom_timesteps else {}),
    )
    assert [own.timestep for own in found] == expected.timesteps.tolist()


class Steps(sdprobe.Observer):
    def start(self, run):
        self.seen = []

    def latents(self, x, step):
        self.seen.append((step.timestep, step.sigma, step.signal, step.noise))


@pytest.mark.parametrize("asked", [{"timesteps": [900, 500, 20]}, {"num_inference_steps": 3}])
def test_an_attached_pipeline_s_own_timesteps(asked):
    pipe = stable_diffusion()
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    steps = Steps()
    with attach(pipe, [steps, sdprobe.Checkpoints()]) as run:
        pipe("a star", generator=torch.Generator().manual_seed(0), **asked)
    assert run[steps].seen == [own[:4] for own in step_levels(pipe.scheduler)]
    assert "set_timesteps" not in vars(pipe.scheduler)
    again = sdprobe.resume(run, 1, hooks=[steps], progress=False)
    assert again[steps].seen == run[steps].seen[1:]
    assert torch.equal(again.latents, run.latents)


def test_timesteps_that_a_pipeline_replaces_after_it_set_them():
    class Shortened(type(stable_diffusion())):
        def prepare_latents(self, *args, **kwargs):
            self.scheduler.timesteps = self.scheduler.timesteps - 1
            return super().prepare_latents(*args, **kwargs)

    pipe = Shortened(**stable_diffusion().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    steps = Steps()
    with attach(pipe, steps) as run:
        pipe("a star", num_inference_steps=3)
    assert run[steps].seen == [own[:4] for own in step_levels(pipe.scheduler)]


@pytest.mark.parametrize("family", ["Flux.1 dev", "Stable Diffusion 3"])
def test_a_flow_depends_on_the_size_too(family):
    pipe = FAMILIES[family]()
    pipe.set_progress_bar_config(disable=True)
    steps, runs = Steps(), []
    with attach(pipe, steps) as run:
        pipe("a star", num_inference_steps=3, height=16, width=24)
    runs.append(run)
    runs.append(sdprobe.sample(pipe, "a star", hooks=[steps], steps=3, height=16, width=24, progress=False))
    assert runs[0][steps].seen == runs[1][steps].seen
