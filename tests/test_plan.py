"""A plan says what an experiment then takes, call by call."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import sdprobe
from sdprobe import experiments
from sdprobe.experiments.experiment import experiment
from sdprobe.experiments.plan import Counted, plan
from sdprobe.experiments.sampler import attached, sampler_of
from tests.swept import CONDITIONS, FailsWithout, brightness, files, some


def counted_experiment(model, *what, **how):
    """Run an experiment; return the pictures and the calls of the denoiser that it took."""
    counted = Counted(sampler_of(model))
    with counted.counting():
        result = experiment(model, *what, **how, progress=False)
    return result, counted.calls


@dataclass(frozen=True)
class AfterALook:
    """A design whose hooks take a run of their own: the prompt is scaled by what the untouched picture is like."""

    def conditions(self, case, runner):
        def hooks():
            seen = runner.once("look", lambda: runner.run())
            return [("scale-prompt", {"factor": float(seen.latents.std() > 0)})]

        return {"one": experiments.Condition(hooks), "two": experiments.Condition(hooks)}

    def result(self):
        return experiments.Result


class Gradients(sdprobe.Transform):
    """A hook that needs gradients, so that its condition is run alone, and that calls the denoiser once more."""

    needs_grad = ("latents",)

    def noise_pred(self, x, step):
        return x + 0 * step.predict(step.latents, role="cond")


@pytest.mark.slow
def test_what_it_says_is_what_is_run(embedded, tmp_path):
    what = (some(3), CONDITIONS, brightness)
    for model in (embedded, attached(embedded.pipe)):
        folder = tmp_path / type(model).__name__
        said = plan(model, *what, steps=2, folder=folder)
        assert (said.jobs, said.kept, said.left, said.pictures) == (3, 1, 2, 2 * 3)
        _, calls = counted_experiment(model, *what, steps=2, folder=folder)
        assert said.calls == calls == 2 * 2
        assert abs(said.size - sum(map(len, files(folder).values()))) < 0.02 * said.size
        done = plan(model, *what, steps=2, folder=folder)
        assert (done.left, done.pictures, done.calls, done.seconds) == (0, 0, 0, 0.0)
        assert done.size == said.size


def test_without_a_folder_all_is_run(embedded):
    what = (some(2), CONDITIONS, brightness)
    said = plan(embedded, *what, steps=3)
    _, calls = counted_experiment(embedded, *what, steps=3)
    assert (said.left, said.calls) == (2, calls)


def test_further_runs_of_a_design_are_counted(embedded, tmp_path):
    what = (some(3), AfterALook(), brightness)
    said = plan(embedded, *what, steps=2, folder=tmp_path)
    _, calls = counted_experiment(embedded, *what, steps=2, folder=tmp_path)
    assert said.calls == calls == 2 * (2 + 2)
    assert said.pictures == 2 * (3 + 1)


def test_jobs_of_other_sizes_and_conditions_that_run_alone(tiny):
    """Conditions that cannot share a batch are runs of their own, and calls that a hook makes are counted."""
    what = (some(2), {name: Gradients() for name in "abcde"}, brightness)
    said = plan(tiny, *what, steps=2, batch=3)
    _, calls = counted_experiment(tiny, *what, steps=2, batch=3)
    assert said.jobs == 6
    assert calls > 2 * 2 * (5 + 3)
    assert 0 <= said.calls - calls <= 0.2 * calls  # what jobs of a case share is counted for each


def test_it_prints_as_a_table_and_tells_an_error(embedded, tmp_path):
    measures = {"fails": FailsWithout(str(tmp_path / "none"))}
    said = plan(
        embedded, experiments.cases("a red circle", seeds=[1, 2]), CONDITIONS, measures, folder=tmp_path, steps=2
    )
    assert said.kept == 0, "what failed is run again"
    lines = dict(line.split("  ", 1) for line in repr(said).splitlines())
    assert {name: lines[name].strip() for name in ("jobs to run", "pictures", "error")} == {
        "jobs to run": "2 of 2",
        "pictures": "6",
        "error": "RuntimeError: no file for seed 1",
    }
    assert "denoiser calls" in said._repr_html_()
