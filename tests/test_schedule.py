"""A schedule is the scheduler's own table, and the one a run steps through."""

from __future__ import annotations

import pickle

import diffusers
import pytest
import torch

import sdprobe
from sdprobe.core.schedule import Schedule
from sdprobe.model.diffusion.schedulers import SCHEDULERS
from sdprobe.sampling.schedule import schedule
from tests.laws.strategies import run
from tests.parity.test_stable_diffusion import assert_same, scheduler_for, schedulers, stock

LMS = diffusers.LMSDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


class Steps(sdprobe.Observer):
    def start(self, run):
        self.seen = []

    def noise_pred(self, x, step):
        self.seen.append((step.timestep, step.sigma))


def test_the_reference(tiny):
    """15 steps of LMS on the betas of Stable Diffusion, as they are printed in its lessons."""
    own = schedule(tiny, 15, LMS)
    t, s = own.timesteps.tolist(), own.sigmas.tolist()
    assert [round(x, 4) for x in (t[0], t[1], t[-2], t[-1])] == [999.0, 927.6429, 71.3571, 0.0]
    assert [round(x, 4) for x in s[:5]] == [14.6146, 9.6826, 6.6780, 4.7746, 3.5221]
    assert [round(x, 4) for x in s[-3:]] == [0.2780, 0.0292, 0.0]
    assert (len(t), len(s)) == (15, 16)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_a_run_steps_through_it(tiny, name):
    made = scheduler_for(tiny.pipe, name)
    own, watch = schedule(tiny, 5, made), Steps()
    seen = run(tiny, watch, steps=5, scheduler=made)[watch].seen
    timesteps, sigmas = torch.tensor(seen).T
    assert torch.equal(timesteps, own.timesteps)
    assert torch.equal(sigmas, own.sigmas[:-1])
    assert (own.scheduler, own.steps, own.timesteps.dtype) == (name, 5, torch.float32)


@pytest.mark.parametrize("name", sorted(SCHEDULERS - {kind.__name__ for kind in diffusers.DDIMScheduler().compatibles}))
def test_schedulers_beyond_diffusers_list_run_as_in_the_pipeline(tiny, name):
    settings = {"prompt": "a red circle", "steps": 4, "guidance_scale": 3.0, "seed": 5}
    made = scheduler_for(tiny.pipe, name)
    expected = stock(tiny, made, **settings)
    assert_same(sdprobe.sample(tiny, scheduler=name, progress=False, **settings), *expected)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_the_quantities_agree(tiny, name):
    own = schedule(tiny, 6, scheduler_for(tiny.pipe, name))
    assert len(own.sigmas) == len(own.alphas) == len(own.snr) == len(own.timesteps) + 1 == len(own.step_sizes) + 1
    assert torch.allclose(own.alphas, 1 / (1 + own.sigmas**2))
    assert torch.allclose(own.snr, own.alphas / (1 - own.alphas.double()).float(), rtol=2e-2)  # 1 - ᾱ is rounded
    assert own.step_sizes.sum() == pytest.approx(float(own.sigmas[0] - own.sigmas[-1]), rel=1e-5)


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "DDPMScheduler", "LCMScheduler"])
def test_alphas_are_the_training_s(tiny, name):
    own = schedule(tiny, 6, name)
    table = tiny.pipe.scheduler.alphas_cumprod
    assert torch.allclose(own.alphas[:-1], table[own.timesteps.long()])


def test_a_flow(tiny):
    """The straight way from noise to picture: σ is the share of noise itself."""
    flow = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    own = schedule(tiny, 8, flow)
    assert torch.equal(own.noise, own.sigmas)
    assert torch.allclose(own.signal + own.noise, torch.ones(9))


def test_the_pipeline_s_own_is_the_default_and_stays_as_it_is(tiny):
    before = tiny.pipe.scheduler.timesteps.clone()
    own = schedule(tiny.pipe)
    assert (own.scheduler, own.steps) == ("DDIMScheduler", 50)
    assert torch.equal(tiny.pipe.scheduler.timesteps, before)


def test_any_fitting_scheduler_s_name_where_the_pipeline_has_one_beyond_the_list(tiny):
    pipe = type(tiny.pipe)(**tiny.pipe.components, requires_safety_checker=False)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    assert schedule(pipe, 4, "euler").scheduler == "EulerDiscreteScheduler"
    assert schedule(pipe, 4).scheduler == "LCMScheduler"


def test_refused(tiny):
    with pytest.raises(ValueError, match="steps must be 1 or more, not 0"):
        schedule(tiny, 0)
    with pytest.raises(ValueError, match="timestep 1000 lies beyond the 1000 of training: take fewer steps"):
        schedule(tiny, 1000)
    with pytest.raises(ValueError, match="'Eular' does not fit this pipeline; those that do: DDIM"):
        schedule(tiny, 5, "Eular")


def test_read_as_a_table(tiny):
    own = schedule(tiny, 15, LMS)
    lines = str(own).splitlines()
    assert lines[0] == "Schedule(LMSDiscrete, 15 steps)"
    assert len(lines) == 1 + 1 + 15 + 1  # name, head, calls, end
    assert [len(line) for line in lines[2:-1]] == [len(lines[1])] * 15
    long = str(schedule(tiny, 50))
    assert "..." in long
    assert len(long.splitlines()) == 1 + 1 + 16 + 1
    assert schedule(tiny, 50)._repr_html_().count("<tr>") == 1 + 50 + 1
    assert str(schedule(tiny, 3, "Heun")).startswith("Schedule(HeunDiscrete, 3 steps, 5 calls)")


def test_names_are_escaped(tiny):
    table = Schedule("<b>", 1, torch.zeros(1), *torch.ones(3, 2))._repr_html_()
    assert "<b>" not in table
    assert "&lt;b&gt;" in table


def test_the_figure_shows_every_schedule(tiny):
    names = ["DDIM", "LMS", "Heun"]
    first, *others = (schedule(tiny, 5, name) for name in names)
    figure = first.plot(*others)
    assert [ax.get_ylabel().split()[0] for ax in figure.axes] == ["timestep", "σ", "step", "signal-to-noise"]
    for ax in figure.axes:
        assert len(ax.get_lines()) == len(names)
    drawn = figure.axes[1].get_lines()[0].get_ydata()
    assert drawn == pytest.approx(first.sigmas.numpy())
    assert len(first.plot().axes[0].get_lines()) == 1


@pytest.mark.parametrize("name", schedulers())
def test_a_run_has_the_schedule_of_its_steps(tiny, name, tmp_path):
    own = scheduler_for(tiny.pipe, name)
    result = run(tiny, scheduler=own, steps=4)
    whole = schedule(tiny, 4, own)
    saved = sdprobe.open(result.save(tmp_path / "run"))
    for one in (result, saved, pickle.loads(pickle.dumps(result))):
        assert (one.schedule.scheduler, one.schedule.steps) == (whole.scheduler, 4)
        for what in ("timesteps", "sigmas", "signal", "noise"):
            assert torch.equal(getattr(one.schedule, what), getattr(whole, what)), what


def test_of_a_run_from_a_picture_it_is_that_of_the_steps_it_took(tiny):
    result = run(tiny, image=torch.rand(1, 3, 16, 16), strength=0.5, steps=4)
    assert torch.equal(result.schedule.sigmas, schedule(tiny, 4).sigmas[2:])
    assert torch.equal(result.schedule.timesteps, schedule(tiny, 4).timesteps[2:])


def test_hooks_of_some_images_and_attached_runs_have_it_too(tiny):
    class Levels(sdprobe.Observer):
        def noise_pred(self, x, step):
            self.sigma = step.run.schedule.sigmas[step.index]
            assert step.sigma == pytest.approx(self.sigma.item())

    levels = Levels()
    result = run(tiny, sdprobe.only(levels, rows=[1]), images_per_prompt=2)
    assert result[levels].sigma == result.schedule.sigmas[1]
    with sdprobe.attach(tiny.pipe, [levels]) as attached:
        tiny.pipe("a red circle", num_inference_steps=2, height=16, width=16)
    assert torch.equal(attached.schedule.sigmas, schedule(tiny, 2).sigmas)
