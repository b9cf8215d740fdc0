"""Predicted x0 equals what a scheduler itself reports, where it reports it, and never disturbs the scheduler."""

from __future__ import annotations

import diffusers
import pytest
import torch

import sdprobe
from sdprobe.model.prediction import EXPLODING
from tests.laws.strategies import run
from tests.parity.test_stable_diffusion import scheduler_for, schedulers


class X0(sdprobe.Observer):
    def start(self, run):
        self.ours = []

    def noise_pred(self, x, step):
        self.ours.append((step.denoised(x), step.latents, x, step))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "LMSDiscreteScheduler",
    ],
)
@pytest.mark.parametrize("clip", [False, True])
def test_equals_the_scheduler_s_own(tiny, name, prediction, clip):
    kind = getattr(diffusers, name)
    own = kind.from_config(tiny.pipe.scheduler.config, prediction_type=prediction)
    if clip and hasattr(own.config, "clip_sample"):
        own.register_to_config(clip_sample=True)
    watch = X0()
    try:
        result = run(tiny, watch, steps=4, scheduler=own)
    except NotImplementedError:
        pytest.skip(f"{name} does not know {prediction}")
    fresh = kind.from_config(own.config)
    fresh.set_timesteps(4)
    for timestep, (ours, latents, noise, _) in zip(fresh.timesteps, result[watch].ours, strict=True):
        fresh.scale_model_input(latents, timestep)
        theirs = fresh.step(noise, timestep, latents).pred_original_sample
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("name", [n for n in schedulers() if n != "EDMEulerScheduler"])
def test_a_perfect_denoiser_is_read_back(tiny, name):
    """Latents made of a known x0 and noise, with the noise as the prediction, give that x0, under every scheduler."""
    watch = X0()
    scheduler = scheduler_for(tiny.pipe, name)
    steps = run(tiny, watch, steps=5, scheduler=scheduler)[watch].ours
    x0, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for _, _, _, step in steps:
        if step.sigma == 0:
            continue
        signal = 1.0 if name in EXPLODING else (1 + step.sigma**2) ** -0.5
        noisy = signal * x0 + signal * step.sigma * noise
        assert torch.allclose(step.to_denoised(noise, noisy), x0, atol=1e-4 * (1 + step.sigma))


def test_reading_x0_does_not_advance_a_multistep_scheduler(tiny):
    for name in ("PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        assert torch.equal(run(tiny, X0(), steps=5, scheduler=name).latents, run(tiny, steps=5, scheduler=name).latents)
