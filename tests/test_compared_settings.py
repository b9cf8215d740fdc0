"""How two runs were made: what their settings say, and what only their noise levels do."""

from __future__ import annotations

import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

import sdprobe
from sdprobe import LatentRecorder, compare
from tests.laws.strategies import run


def configured(model, kind, **options):
    """A run under a scheduler with these options."""
    scheduler = kind.from_config(model.pipe.scheduler.config, **options)
    return run(model, LatentRecorder(), steps=4, scheduler=scheduler)


@pytest.mark.parametrize(
    ("kind", "options", "step"),
    [
        (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, 1),
        (DDIMScheduler, {"timestep_spacing": "trailing"}, 0),
        (DDIMScheduler, {"beta_end": 0.02}, 0),
    ],
)
def test_a_scheduler_configured_otherwise_is_seen(tiny, kind, options, step, tmp_path):
    a, b = configured(tiny, kind), configured(tiny, kind, **options)
    for other in (b, sdprobe.open(b.save(tmp_path / "b"))):
        found = compare(a, other)
        assert list(found.settings) == ["noise levels"]
        for own, said in zip((a, b), found.settings["noise levels"], strict=True):
            timestep, sigma, _, _ = own.levels[step]
            assert said == f"step {step}: timestep {timestep:g}, sigma {sigma:.6g}"
        assert any(f"from step {step} on their noise levels differ" in note for note in found.notes)


def test_the_same_levels_are_no_difference(tiny, tmp_path):
    a, b = (configured(tiny, DPMSolverMultistepScheduler, use_karras_sigmas=True) for _ in range(2))
    for other in (b, sdprobe.open(b.save(tmp_path / "b"))):
        found = compare(a, other)
        assert not found.settings
        assert not any("noise level" in note for note in found.notes)


def test_other_schedulers_and_steps_say_so_themselves(tiny):
    a = configured(tiny, DDIMScheduler)
    assert list(compare(a, configured(tiny, DPMSolverMultistepScheduler)).settings) == ["scheduler"]
    assert list(compare(a, run(tiny, steps=3)).settings) == ["steps"]
