"""A job has an id that changes with whatever changes its rows, and with nothing else."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from PIL import Image

import sdprobe
from sdprobe.experiments import Case, Condition
from sdprobe.experiments.experiment import planned_jobs
from sdprobe.experiments.job import Job
from sdprobe.experiments.run_job import run_job
from sdprobe.experiments.sampler import attached, sampler_of
from tests.swept import FailsWithout, brightness, change
from tests.tiny import stable_diffusion

BLANK = Condition([("scale-prompt", {"factor": 0.0})])
ONE = Job("a model", Case("a red circle"), {"blank": BLANK}, ("blank",), {"brightness": brightness})


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "another"},
        {"case": Case("a red circle", seed=1)},
        {"case": Case("a red circle", negative_prompt="")},
        {"case": Case("a red circle", words={"colour": "red"})},
        {"case": Case("a red circle", image=Image.new("RGB", (8, 8)))},
        {"conditions": {"blank": Condition([("scale-prompt", {"factor": 0.1})])}},
        {"conditions": {"blank": replace(BLANK, control=True)}},
        {"conditions": {"blank": replace(BLANK, labels={"share": 0.1})}},
        {"conditions": {"other": BLANK}, "names": ("other",)},
        {"measures": {"brightness": change}},
        {"measures": {"other": brightness}},
        {"measures": {"brightness": FailsWithout("a")}},
        {"hooks": [sdprobe.LatentRecorder()]},
        {"hooks": {"recorded": [sdprobe.LatentRecorder()]}},
        {"settings": {"guidance_scale": 5.5}},
        {"settings": {"steps": 2}},
        {"settings": {"scheduler": "Euler"}},
    ],
)
def test_another_id(changes):
    assert replace(ONE, **changes).id != ONE.id


def test_the_same_id():
    again = Job("a model", Case("a red circle"), {"blank": BLANK, "not of this job": BLANK}, ("blank",), ONE.measures)
    assert again.id == ONE.id
    assert ONE.written().id == ONE.id
    sent = pickle.loads(pickle.dumps(ONE.written()))
    assert (sent.id, sent.description) == (ONE.id, ONE.description)


def test_settings_that_are_equal_numbers():
    ids = {replace(ONE, settings={"guidance_scale": scale}).id for scale in (5, 5.0)}
    assert len(ids) == 1


def test_hooks_in_another_order():
    hooks = {"b": sdprobe.LatentRecorder(every=2), "a": sdprobe.LatentRecorder(every=3)}
    assert replace(ONE, hooks=hooks).id != replace(ONE, hooks=dict(reversed(hooks.items()))).id


def test_a_picture_by_its_path(tmp_path):
    path = tmp_path / "image.png"
    ids = set()
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(path)
        ids.add(replace(ONE, case=Case("a red circle", image=str(path))).id)
        ids.add(replace(ONE, case=Case("a red circle", image=path)).id)
    assert len(ids) == 2


def test_the_model_is_its_weights_and_its_scheduler():
    pipe = stable_diffusion()
    name = sampler_of(pipe).identity
    assert sampler_of(pipe).identity == name
    assert attached(pipe).identity != name
    assert attached(pipe, eta=1.0).identity != attached(pipe).identity
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert sampler_of(pipe).identity != name


def test_the_model_is_also_what_it_does_with_its_weights(tmp_path):
    pipe = stable_diffusion()
    name = sampler_of(pipe).identity
    pipe.save_pretrained(tmp_path)
    assert [sampler_of(type(pipe).from_pretrained(tmp_path)).identity for _ in range(2)] == [name] * 2
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    free = sampler_of(pipe).identity
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.5)
    assert len({name, free, sampler_of(pipe).identity}) == 3
    pipe.unet.disable_freeu()
    assert sampler_of(pipe).identity == name
    pipe.vae.register_to_config(scaling_factor=0.5)
    assert sampler_of(pipe).identity != name


def named(run):
    return float(len(run["mine"].indices) if "mine" in run.names else -1)


def test_hooks_keep_the_names_that_they_were_given(embedded):
    jobs, _ = planned_jobs(
        sampler_of(embedded),
        "a red circle",
        {"blank": BLANK},
        named,
        {"mine": sdprobe.LatentRecorder()},
        8,
        {"steps": 2},
    )
    for job in (jobs[0], jobs[0].written()):
        assert [(row["value"], row.get("error")) for row in run_job(job, sampler_of(embedded))] == [(2.0, None)] * 2


def test_hooks_are_made_once_for_a_job():
    made = []

    def hooks():
        made.append(1)
        return [("scale-prompt", {"factor": 0.5})]

    job = replace(ONE, conditions={"half": Condition(hooks)}, names=("half",))
    assert job.written().conditions["half"].hooks == [["scale-prompt", {"factor": 0.5}]]
    assert len(job.id) == 32
    assert made == [1]


class Odd:
    pass


def test_labels_that_are_no_values_are_errors(embedded):
    job = replace(ONE, conditions={"blank": replace(BLANK, labels={"share": Odd()})}, settings={"steps": 2})
    rows = run_job(job, sampler_of(embedded))
    assert {row["condition"] for row in rows} == {"untouched", "blank"}
    assert all("the label 'share' is" in row["error"] for row in rows)
