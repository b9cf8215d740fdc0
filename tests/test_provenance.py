"""What made a run: it is known of a live run, and of one that was saved."""

from __future__ import annotations

import json
import pickle
import platform
from importlib.metadata import version

import torch

import sdprobe
from sdprobe.core import provenance
from sdprobe.core.provenance import versions
from tests.laws.strategies import run
from tests.tiny import stable_diffusion


def test_a_run_names_its_model_and_the_packages(tiny):
    found = run(tiny).provenance
    assert found.model == repr(tiny)
    assert found.source is None  # it was made in memory
    assert found.weights.startswith("sha256:")
    assert (found.dtype, found.device) == ("float32", "cpu")
    assert found.versions["torch"] == version("torch")
    assert found.versions["python"] == platform.python_version()


def test_what_was_loaded_says_from_where(tmp_path):
    assert sdprobe.load().provenance.source == "shapes"
    stable_diffusion().save_pretrained(tmp_path / "model")
    found = sdprobe.load(str(tmp_path / "model"), dtype=torch.bfloat16).provenance
    assert (found.source, found.dtype) == (str(tmp_path / "model"), "bfloat16")


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package-anywhere",))
    assert versions()["no-such-package-anywhere"] == "not installed"


def test_it_is_saved_with_the_run_and_with_the_copy_of_a_saved_run(tiny, tmp_path):
    live = run(tiny)
    live.save(tmp_path / "run")
    again = sdprobe.open(tmp_path / "run")
    assert again.provenance == live.provenance
    assert again.model_name == live.model_name
    again.save(tmp_path / "copy")
    assert sdprobe.open(tmp_path / "copy").provenance == live.provenance
    written = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["provenance"]
    assert written["weights"] == live.provenance.weights


def test_a_run_that_came_out_of_a_pickle_is_saved_too(tiny, tmp_path):
    live = run(tiny, sdprobe.Statistics())
    back = pickle.loads(pickle.dumps(live))
    back.save(tmp_path / "run")
    again = sdprobe.open(tmp_path / "run")
    assert again.provenance.model == repr(tiny)
    assert torch.equal(again[sdprobe.Statistics].cosine, live[sdprobe.Statistics].cosine)


def test_weights_that_were_changed_after_the_run_are_not_those_that_made_it(tmp_path):
    """Two runs, saved in the end: with and without a change of the weights."""
    pipe = stable_diffusion()
    model = sdprobe.load(pipe)
    first = run(model, sdprobe.Checkpoints())
    expected = first.provenance.weights
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1.5)
    second = run(model)
    for result, weights in ((first, None), (second, second.provenance.weights)):
        assert result.provenance.weights == weights
        assert pickle.loads(pickle.dumps(result)).provenance.weights == weights
    assert second.provenance.weights not in (expected, None)
    assert sdprobe.open(first.save(tmp_path / "run")).provenance.weights is None
    with torch.no_grad():
        pipe.unet.conv_in.weight.div_(1.5)
    sdprobe.resume(tmp_path / "run", step=1, model=pipe, progress=False)  # it is not refused
