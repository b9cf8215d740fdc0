"""Runs of Wan, kept and gone on with: saved and opened, resumed, written as code, drawn by the command line."""

from __future__ import annotations

import json

import pytest
import torch

import sdprobe
from sdprobe.cli import main
from sdprobe.runs.report.code_of_run import code_of
from sdprobe.runs.saved.open_run import open_run
from tests.tiny_models.wan import wan

SETTINGS = {
    "steps": 3,
    "guidance_scale": 3.0,
    "guidance_scale_2": 2.0,
    "seed": 0,
    "height": 16,
    "width": 16,
    "frames": 5,
    "progress": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan") / "model"
    wan(two=True).save_pretrained(folder)
    return sdprobe.load(folder)


@pytest.fixture(scope="module")
def run(model):
    hooks = {"maps": sdprobe.AttentionMaps(), "kept": sdprobe.Checkpoints()}
    return sdprobe.sample(model, "a red circle", hooks=hooks, **SETTINGS)


def test_a_saved_run_is_the_run(run, model, tmp_path):
    opened = open_run(run.save(tmp_path / "run"))
    assert opened.settings == run.settings
    assert torch.equal(opened.latents, run.latents)
    assert [len(frames) for frames in opened.videos] == [5]
    assert torch.equal(opened["maps"].heat_map("circle").values, run["maps"].heat_map("circle").values)
    again = sdprobe.resume(opened, 2, model=model, progress=False)  # the second denoiser's step
    assert torch.equal(again.latents, run.latents)


def test_the_code_of_a_run_makes_it_again(run):
    said = code_of(run)
    assert "frames=5" in said
    assert "guidance_scale_2=2.0" in said
    made = {}
    exec(said.replace("checkpoints", "statistics"), made)
    assert torch.equal(made["run"].latents, run.latents)


def test_a_run_says_that_it_made_videos(run):
    assert "1 video of 5 frames of 16×16" in repr(run)
    assert run._repr_html_().count("frame ") >= 3


def test_the_command_line_draws_videos(model, tmp_path, capsys):
    asked = ["a red circle", "--model", str(model.pipe.config._name_or_path), "--out", str(tmp_path), "--quiet"]
    sizes = ["--steps", "1", "--frames", "5", "--height", "16", "--width", "16", "--guidance-scale-2", "2"]
    assert main([*asked, *sizes]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"video.gif", "word-02-circle.gif", "word-02-circle-sheet.png", "settings.json"} <= names
    assert json.loads((tmp_path / "settings.json").read_text())["frames"] == 5


def test_what_a_model_of_videos_cannot_do_is_said(model):
    picture = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="makes videos"):
        sdprobe.invert(model, picture, "a star", steps=1)
    with pytest.raises(ValueError, match="made for a flow"):
        sdprobe.sample(model, "a star", scheduler=sdprobe.load().pipe.scheduler, **SETTINGS)
    with pytest.raises(ValueError, match="does not fit"):
        sdprobe.sample(model, "a star", scheduler="DDIM", **SETTINGS)
    with pytest.raises(ValueError, match=r"1 more than a multiple of 2.* 3 or 5"):
        sdprobe.sample(model, "a star", **SETTINGS | {"frames": 4})
    with pytest.raises(ValueError, match="makes images"):
        sdprobe.sample(sdprobe.load(), "a star", frames=5)


def test_a_flow_s_scheduler_by_name_keeps_the_shift(model):
    run = sdprobe.sample(model, "a star", scheduler="FlowMatchEuler", **SETTINGS | {"guidance_scale": 1.0})
    assert run.settings.scheduler == "FlowMatchEulerDiscreteScheduler"
    assert run.schedule.sigmas[1] > 1 - 1 / 3  # shifted towards noise
