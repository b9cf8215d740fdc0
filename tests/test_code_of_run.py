"""The code of a run: executed, it makes the run again; what it cannot write, it names."""

from __future__ import annotations

import ast
import json
import pickle

import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe import AddVector, AttentionMaps, Checkpoints, LatentRecorder, ReplaceToken, Statistics, attach, only
from sdprobe.runs.report.code_of_run import code_of
from tests.laws.strategies import run
from tests.tiny import stable_diffusion


def made_by(code, model=None):
    """The run that the code makes; the model takes the place of the dots."""
    names = {"Ellipsis": ...}
    exec(code.replace("sdprobe.load(...)", "MODEL"), names | {"MODEL": model}, names)
    return names["run"]


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": "a red circle", "seed": 3},
        {"prompt": 'it\'s "a" \\ red\n circle # </script>', "negative_prompt": "a 'star'", "seed": 3},
        {
            "prompt": ["a red circle", "a star " * 30],
            "images_per_prompt": 2,
            "seed": [1, 2, 3, 4],
            "guidance_scale": 1.0,
            "chunks": True,
        },
        {"prompt": "a red circle", "scheduler": "EulerAncestralDiscrete", "guidance_scale": 2.35, "width": 72},
        {"prompt": r"a (red:1.3) \(circle", "negative_prompt": "a star--", "seed": 3, "weights": True},
    ],
)
def test_it_makes_the_same_run(embedded, settings):
    hooks = [
        only(ReplaceToken("a", with_="star"), steps=[0, 1]),
        "statistics",
        AttentionMaps(keep=("step",), rows="cond", dtype="float16"),
    ]
    result = sdprobe.sample(embedded, hooks=hooks, steps=4, **settings)
    again = made_by(code_of(result))
    assert torch.equal(again.latents, result.latents)
    assert again.settings == result.settings
    assert [repr(given) for given, _ in again.records] == [repr(given) for given, _ in result.records]
    assert code_of(pickle.loads(pickle.dumps(result))) == code_of(result) == code_of(again)


def test_another_model_is_named(tiny):
    result = run(tiny, "statistics")
    code = code_of(result)
    assert f"The run was made by {tiny!r}" in " ".join(code.replace("# ", "").split())
    assert torch.equal(made_by(code, tiny).latents, result.latents)
    with pytest.raises(TypeError, match="a model is a path, a hub id or a diffusers pipeline"):
        exec(code, {})


def test_its_dtype_is_written():
    model = sdprobe.load(stable_diffusion(), dtype=torch.bfloat16)
    assert "sdprobe.load(..., dtype=torch.bfloat16)" in code_of(run(model))


def test_hooks_that_cannot_be_written_are_named(tiny):
    width = tiny.pipe.text_encoder.config.hidden_size
    hooks = [sdprobe.on("latents", lambda x: x), AddVector("circle", torch.ones(width)), Statistics()]
    code = code_of(run(tiny, *hooks))
    said = " ".join(code.replace("# ", "").split())
    assert "Left out: on('latents'" in said
    assert "Left out: AddVector(" in said
    assert "hooks=[['statistics', {}]]" in code


def test_what_a_run_does_not_keep_is_said(tiny, tmp_path):
    picture = Image.new("RGB", (16, 16), "red")
    started = run(tiny, image=picture, strength=0.5, steps=4)
    code = code_of(started)
    assert "image=...,  # the picture that it began from, which a run does not keep" in code
    names = {"picture": picture}
    exec(
        code.replace("sdprobe.load(...)", "MODEL").replace("image=...", "image=picture"), names | {"MODEL": tiny}, names
    )
    assert torch.equal(names["run"].latents, started.latents)
    assert "initial latents that were given" in code
    assert "Give another folder" in code_of(run(tiny, LatentRecorder(folder=tmp_path / "new")))


def test_a_resumed_run(embedded):
    first = sdprobe.sample(embedded, "a red circle", hooks=[Checkpoints()], steps=4, seed=0, progress=False)
    result = sdprobe.resume(first, 2, hooks=["statistics"], progress=False)
    code = code_of(result)
    assert "continued another from step 2" in code
    assert torch.equal(made_by(code).latents, result.latents)


def test_an_attached_run():
    pipe = stable_diffusion()
    with attach(pipe, ["statistics"]) as attached:
        pipe("a red circle", num_inference_steps=2)
    code = code_of(attached)
    assert "a call of a stock pipeline" in code
    assert "seed=None,  # not known" in code
    with attach(pipe, ["statistics"]) as attached:
        pipe("a red circle", num_inference_steps=2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(made_by(code_of(attached), pipe).latents, attached.latents)


@pytest.mark.parametrize("name", ["source", "weights", "dtype", "device", "model"])
@pytest.mark.parametrize(
    "text", ["float16); HACKED.append(1);(", "x\nHACKED.append(1)", '")\rHACKED.append(1)#', "cuda:HACKED"]
)
def test_what_the_file_of_a_saved_run_says_is_never_code(tiny, tmp_path, name, text):
    """Whoever copies the code out of the report of somebody else's run executes it."""
    folder = run(tiny, "statistics").save(tmp_path / "run")
    content = json.loads((folder / "run.json").read_text())
    content["provenance"][name] = text
    (folder / "run.json").write_text(json.dumps(content))
    saved = sdprobe.open(folder)
    names = {own.id for own in ast.walk(ast.parse(code_of(saved))) if isinstance(own, ast.Name)}
    assert names <= {"sdprobe", "torch", "model", "run"}
    saved.report(tmp_path / "run.html")
