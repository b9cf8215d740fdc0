"""Predicted x0 equals what a scheduler itself reports, where it reports it, and never disturbs the scheduler.

Most of this needs no network: what a scheduler makes of an output does not depend on where the output comes from.
"""

from __future__ import annotations

import copy
from functools import cache

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe.model.diffusion.noise_levels import denoised, is_flow, level_at
from sdprobe.model.diffusion.schedulers import SCHEDULERS
from tests.laws.strategies import run

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")
SHAPE = (1, 4, 4, 4)
UPWARDS = {"DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"}


def scheduler(name, prediction="epsilon", **options):
    """A scheduler with the noise levels of Stable Diffusion."""
    return copy.deepcopy(built(name, prediction, **options))


@cache  # some take a third of a second
def built(name, prediction, **options):
    options = {"noise_sampler_seed": 7, "clip_sample": False, **options} if "SDE" in name else options
    config = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    ).config
    flow = {"use_flow_sigmas": True} if prediction == "flow_prediction" else {}
    return getattr(diffusers, name).from_config(config, prediction_type=prediction, **flow, **options)


def walk(made, steps, output, start=None):
    """Down the schedule, with ``output(x, index)`` for the network: each call's index, latents, output and report."""
    made.set_timesteps(max(steps, 4) if isinstance(made, diffusers.PNDMScheduler) else steps)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    x = noise * made.init_noise_sigma if start is None else start
    for i, timestep in enumerate(made.timesteps):
        out = output(x, i)
        made.scale_model_input(x, timestep)
        ours = denoised(made, out, x, level_at(made, i))
        result = made.step(out, timestep, x)
        yield i, x, out, ours, result
        x = result.prev_sample
    yield len(made.timesteps), x, None, None, None


def scribble(x, index):
    """An output that depends on the latents as a network's does."""
    return torch.roll(x, index + 1, dims=-1).tanh()


def knows(name, prediction):
    try:
        made = scheduler(name, prediction)
        return is_flow(made) == (prediction == "flow_prediction") and bool(list(walk(made, 4, scribble)))
    except (ValueError, NotImplementedError):
        return False


KNOWN = [(name, prediction) for name in sorted(SCHEDULERS) for prediction in PREDICTIONS if knows(name, prediction)]


def reported(made, x, result):
    """What a scheduler itself says x0 is, at the call it has just made; None where it says nothing."""
    if hasattr(result, "pred_original_sample"):
        return result.pred_original_sample
    if hasattr(made, "model_outputs"):  # multistep solvers keep what they made of the output: x0 or noise
        kept = made.model_outputs[-1]
        if made.config.get("algorithm_type") in (None, "bh1", "bh2", "dpmsolver++", "data_prediction"):
            return kept
    return None


def test_every_scheduler_and_every_prediction_is_known():
    assert {name for name, _ in KNOWN} == SCHEDULERS
    assert {prediction for _, prediction in KNOWN} == set(PREDICTIONS)


@pytest.mark.parametrize(("name", "prediction"), KNOWN)
@given(
    steps=st.integers(1, 5),
    karras=st.booleans(),
    spacing=st.sampled_from(["leading", "trailing"]),
    cut=st.sampled_from([{}, {"clip_sample": True, "clip_sample_range": 0.5}, {"thresholding": True}]),
)
def test_equals_what_the_scheduler_reports(name, prediction, steps, karras, spacing, cut):
    """To the last bit: the operations are in the schedulers' order."""
    karras = {"use_karras_sigmas": True} if karras and prediction != "flow_prediction" and steps > 1 else {}
    made = scheduler(name, prediction, num_train_timesteps=200, timestep_spacing=spacing, **karras, **cut)
    for _, x, _, ours, result in walk(made, steps, scribble):
        if result is not None and (theirs := reported(made, x, result)) is not None:
            assert torch.equal(ours, theirs)


def test_most_schedulers_report():
    """So that the property above is no empty one."""
    silent = set()
    for name in SCHEDULERS:
        made = scheduler(name)
        _, x, _, _, result = next(walk(made, 4, scribble))
        if reported(made, x, result) is None:
            silent.add(name)
    assert silent == {"DEISMultistepScheduler", "LCMScheduler", "PNDMScheduler", "TCDScheduler"}


def knows_the_picture(made, x0):
    """A network whose every output speaks of x0: predicted x0 is linear in the output."""

    def output(x, index):
        level = level_at(made, index)
        at_0, at_1 = (denoised(made, torch.full_like(x, value), x, level) for value in (0.0, 1.0))
        return (x0 - at_0) / (at_1 - at_0)

    return output


# PNDM adds up outputs of several levels, which is right for noise alone: its v-prediction misses even a known picture.
@pytest.mark.parametrize(("name", "prediction"), [k for k in KNOWN if k != ("PNDMScheduler", "v_prediction")])
def test_the_levels_are_those_the_latents_pass(name, prediction):
    """Where the network knows the picture, the scheduler's own steps lead from each level to the next.

    The mean and the spread of 16384 values are held to 4 %, five standard errors of them.
    """
    made = scheduler(name, prediction)
    made.set_timesteps(5)
    signal, noise, _ = level_at(made, 0)
    torch.manual_seed(0)
    x0 = torch.ones(1, 4, 64, 64)
    start = signal * x0 + noise * torch.randn(x0.shape)
    for index, x, *_ in walk(made, 5, knows_the_picture(made, x0), start):
        signal, noise, _ = level_at(made, index)
        assert x.mean() == pytest.approx(float(signal), abs=0.04 * float(noise) + 1e-3)
        assert x.std() == pytest.approx(float(noise), abs=0.04 * float(noise) + 1e-3)


@pytest.mark.parametrize(("name", "prediction"), [k for k in KNOWN if k[0] != "EDMEulerScheduler"])
def test_the_true_output_gives_the_picture(name, prediction):
    """What a network is trained to return (Ho et al. 2020; Salimans & Ho 2022, eq. 9 ff.; flows) is read back."""
    made = scheduler(name, prediction)
    made.set_timesteps(5)
    x0, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    for index in range(len(made.timesteps)):
        level = level_at(made, index)
        preserving = (level.signal**2 + level.noise**2) ** 0.5
        target = {
            "epsilon": noise,
            "v_prediction": (level.signal * noise - level.noise * x0) / preserving,
            "sample": x0,
            "flow_prediction": noise - x0,
        }[prediction]
        x = level.signal * x0 + level.noise * noise
        # Rounding of x is divided by the signal.
        assert torch.allclose(denoised(made, target, x, level), x0, atol=1e-6 * float(preserving / level.signal) * 4)


def test_no_signal_at_all():
    """Betas rescaled to end in pure noise (Lin et al. 2023): v speaks of x0 even there."""
    made = scheduler("DDIMScheduler", "v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    index, _, out, ours, result = next(walk(made, 4, scribble))
    level = level_at(made, index)
    assert (level.signal, level.noise) == (0, 1)
    assert level.sigma == float("inf")
    assert torch.equal(ours, result.pred_original_sample)
    assert torch.equal(ours, -out)


def test_what_cannot_be_known_is_said():
    made = diffusers.IPNDMScheduler()
    made.set_timesteps(3)
    with pytest.raises(ValueError, match="IPNDMScheduler has neither sigmas nor alphas_cumprod"):
        level_at(made, 0)
    made = scheduler("DDIMScheduler", "guess")
    made.set_timesteps(3)
    with pytest.raises(ValueError, match="'guess' is not known; known: epsilon"):
        denoised(made, torch.zeros(SHAPE), torch.zeros(SHAPE), level_at(made, 0))


class X0(sdprobe.Observer):
    def start(self, run):
        self.ours = []

    def noise_pred(self, x, step):
        self.ours.append((step.denoised(x), step.latents, x))


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
@pytest.mark.parametrize("strength", [None, 0.5])
def test_in_a_run(tiny, name, strength):
    """A run's steps give what its scheduler reports, and reading it leaves the run as it is."""
    if strength and name in {"EDMEulerScheduler", *UPWARDS}:
        pytest.skip("diffusers' own image-to-image pipeline cannot add its noise")
    start = {} if strength is None else {"image": torch.linspace(0, 1, 768).reshape(1, 3, 16, 16), "strength": strength}
    settings = {"steps": 6, "scheduler": scheduler(name)} | start
    watch = X0()
    watched = run(tiny, watch, **settings)
    assert torch.equal(watched.latents, run(tiny, **settings).latents)
    own = scheduler(name)
    own.set_timesteps(6)
    timesteps = own.timesteps[-len(watched[watch].ours) :]
    if hasattr(own, "set_begin_index"):
        own.set_begin_index(len(own.timesteps) - len(timesteps))
    for timestep, (ours, latents, output) in zip(timesteps, watched[watch].ours, strict=True):
        own.scale_model_input(latents, timestep)
        result = own.step(output, timestep, latents)
        if (theirs := reported(own, latents, result)) is not None:
            assert torch.equal(ours, theirs)
