"""Going on from the middle of a run is as if nothing had stopped."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import Checkpoints, LatentRecorder, resume
from tests.laws.strategies import affine, run, same_run, same_values
from tests.parity.test_stable_diffusion import pictures, scheduler_for, schedulers


def again(result, step, *hooks, **changed):
    return resume(result, step, hooks=hooks, progress=False, **changed)


@pytest.mark.parametrize("name", schedulers())
def test_from_every_step_of_every_scheduler(tiny, name):
    recorder = LatentRecorder(keep=("latents", "noise_pred", "denoised"))
    result = run(tiny, Checkpoints(), recorder, scheduler=scheduler_for(tiny.pipe, name), steps=4)
    whole = result[recorder]
    for step in whole.indices:
        part = again(result, step, recorder)
        assert same_run(part, result)
        assert part[recorder].indices == whole.indices[step:]
        for kept in recorder.keep:
            assert same_values(list(part[recorder][kept]), list(whole[kept][step:]))


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("settings", [{"strength": 0.6, "image": pictures((16, 16))}, {"seed": [3, 8]}])
def test_runs_from_a_picture_and_of_several_seeds(tiny, name, settings):
    settings = {"images_per_prompt": 2, "steps": 5, "scheduler": scheduler_for(tiny.pipe, name)} | settings
    result = run(tiny, Checkpoints(), **settings)
    assert same_run(again(result, 2), result)


@given(st.integers(0, 3), st.lists(st.sampled_from(["latents", "model_output", "noise_pred", "attention"]), max_size=3))
def test_the_same_hooks_do_the_same(tiny, step, points):
    """Those that keep nothing from one step to the next."""
    hooks = [affine(point, 0.9, 0.25) for point in points]
    result = run(tiny, *hooks, Checkpoints(), scheduler="DPMSolverMultistep", steps=4)
    assert same_run(again(result, step, *hooks), result)


def test_a_run_that_goes_on_can_be_gone_on_from(tiny):
    first = run(tiny, Checkpoints(), scheduler="LMS", steps=5)
    second = again(first, 2, Checkpoints())
    assert same_run(again(second, 3), first)
    assert same_run(again(first, 2), first)  # what was kept is not used up
    with pytest.raises(ValueError, match="step 1 was not kept; kept: 2, 3, 4"):
        again(second, 1)


def test_hooks_limited_to_steps_know_their_steps(tiny):
    late = sdprobe.only(affine("noise_pred", 0.5, 0.0), steps=[3])
    result = run(tiny, late, sdprobe.only(Checkpoints(), steps={2}), steps=4)
    assert same_run(again(result, 2, late), result)
    assert again(result, 2).resumed_at == 2
    assert "from step 2" in repr(again(result, 2))


def test_another_prompt_is_another_run_from_there_on(tiny):
    """From step 0 it is the run of the other prompt: the noise is the same."""
    result = run(tiny, Checkpoints(), prompt=["a star", "a ring"], steps=3)
    for changed in ({"prompt": "a red circle"}, {"guidance_scale": 6.0}, {"negative_prompt": ["a star", "a ring"]}):
        settings = {"prompt": ["a star", "a ring"]} | changed
        if isinstance(settings["prompt"], str):
            settings["prompt"] = [settings["prompt"]] * 2
        assert same_run(again(result, 0, **changed), run(tiny, steps=3, **settings))
        assert not same_run(again(result, 1, **changed), result)


def test_guidance_can_be_left_out_from_a_step_on(tiny):
    result = run(tiny, Checkpoints(), steps=4)
    seen = []
    watch = type("Rows", (sdprobe.Observer,), {"model_output": lambda self, x, step: seen.append(len(x))})()
    again(result, 2, watch, guidance_scale=1.0)
    assert seen == [1, 1]


def test_the_model_is_left_as_it_was(tiny):
    before = repr(vars(tiny.pipe.scheduler))
    again(run(tiny, Checkpoints(), steps=3), 1)
    assert repr(vars(tiny.pipe.scheduler)) == before
    assert (tiny.first, tiny.begin) == (0, 0)


def test_errors(tiny):
    with pytest.raises(ValueError, match="kept nothing to go on from"):
        again(run(tiny), 1)
    result = run(tiny, Checkpoints(), steps=2)
    with pytest.raises(ValueError, match="step 2 was not kept; kept: 0, 1"):
        again(result, 2)
    with pytest.raises(ValueError, match="2 texts for 1 prompts"):
        again(result, 1, prompt=["a star", "a ring"])


def test_progress_begins_where_the_run_does(tiny, capsys):
    result = run(tiny, Checkpoints(), steps=4)
    resume(result, 3)
    assert "4/4" in capsys.readouterr().err


def test_a_state_is_a_copy(tiny):
    """A hook that keeps one cannot change the run by it."""

    class Meddler(sdprobe.Observer):
        def latents(self, x, step):
            state = step.state()
            state.latents.zero_()
            state.scheduler.timesteps = state.scheduler.timesteps * 0
            torch.randn(3, generator=state.generator)

    settings = {"scheduler": "EulerAncestralDiscrete", "steps": 3}
    assert same_run(run(tiny, Meddler(), **settings), run(tiny, **settings))


@pytest.mark.parametrize("name", schedulers())
def test_a_saved_run_goes_on_exactly(tiny, name, tmp_path):
    """Under every scheduler, what it remembers of earlier steps comes back from the files."""
    settings = {"scheduler": scheduler_for(tiny.pipe, name), "steps": 4, "images_per_prompt": 2, "seed": [3, 8]}
    result = run(tiny, Checkpoints(), **settings)
    folder = result.save(tmp_path / "run")
    assert same_run(again(folder, 2, model=tiny), result)
    saved = sdprobe.open(folder)
    assert list(saved[Checkpoints].states) == list(result[Checkpoints].states)
    assert torch.equal(saved[Checkpoints].states[2].latents, result[Checkpoints].states[2].latents)
    twice = sdprobe.open(saved.save(tmp_path / "again"))
    assert same_run(again(twice, 3, model=tiny), result)


def test_in_another_process(embedded, tmp_path):
    """The model is loaded again by its name, and nothing else is known of the run."""
    result = run(embedded, Checkpoints(), scheduler="DPMSolverMultistep", steps=4, seed=5)
    folder = result.save(tmp_path / "run")
    torch.save(result.latents, tmp_path / "latents.pt")
    script = (
        "import pathlib, sys, torch, sdprobe\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "torch.set_num_threads(1)\n"
        "again = sdprobe.resume(folder / 'run', step=2, progress=False)\n"
        "assert torch.equal(again.latents, torch.load(folder / 'latents.pt', weights_only=True))\n"
        "other = sdprobe.resume(folder / 'run', step=2, prompt='a blue star', progress=False)\n"
        "assert not torch.equal(other.latents, again.latents)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder.parent)], check=True)


def test_only_with_the_weights_that_made_it(tiny, embedded, tmp_path):
    folder = run(tiny, Checkpoints()).save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"a pipeline made in memory: give it as model="):
        again(folder, 1)
    with pytest.raises(ValueError, match="are not those of the run, which was made by StableDiffusion"):
        again(folder, 1, model=embedded)
    with pytest.raises(FileNotFoundError, match="there is no saved run"):
        again(tmp_path, 1)
    without = run(tiny).save(tmp_path / "without")
    with pytest.raises(ValueError, match=r"hooks=\[sdprobe.Checkpoints\(\)\]"):
        again(without, 1, model=tiny)


def test_a_run_out_of_a_pickle_goes_on_with_its_model(tiny):
    result = run(tiny, Checkpoints())
    assert same_run(again(pickle.loads(pickle.dumps(result)), 1, model=tiny), result)


@pytest.mark.parametrize("step", [0, 2])
def test_a_saved_run_goes_on_from_latents_of_any_layout(embedded, step, tmp_path):
    """The autoencoder of a given picture lays its latents out with the channels last."""
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    kept = sdprobe.Checkpoints()
    settings = {"steps": 4, "guidance_scale": 3.0, "seed": 0, "progress": False}
    laid_out = latents.contiguous(memory_format=torch.channels_last)
    run = sdprobe.sample(embedded, "a red circle", hooks=[kept], latents=laid_out, **settings)
    again = sdprobe.resume(run.save(tmp_path / "run"), step=step, model=embedded, progress=False)
    assert torch.equal(again.latents, run.latents)
