"""Runs and records leave the process: they pickle and copy, without their model."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, Checkpoints, LatentRecorder, SelfAttentionMaps, attach, only
from sdprobe.core import registry
from sdprobe.testing import footprint
from sdprobe.testing.flat_records import difference, records_of, same_run
from tests.configured import made, ours, tried
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

NAMES = [name for name in ours() if name != "loss-guidance"]
"""Every built-in hook; but for one that is given a function, which pickles by its name alone."""
OBSERVERS = [name for name in NAMES if issubclass(registry.names()[name].load(), sdprobe.Observer)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_run_with_any_hook_comes_back(tiny, name, way):
    hook, before = made(name, tiny), footprint(tiny.pipe)
    result = run(tiny, hook, prompt=tried(name).prompt)
    again = copy.deepcopy(result) if way == "deepcopy" else pickle.loads(pickle.dumps(result))
    assert same_run(result, again)
    assert repr(again) == repr(result)
    assert str(again.coverage) == str(result.coverage)
    assert again.settings == result.settings
    assert again.prompts == result.prompts
    leaving_out = tried(name).unrepeatable
    assert difference(records_of(result[hook], leaving_out), records_of(again[type(hook)], leaving_out)) is None
    assert footprint(tiny.pipe) == before


def test_maps_answer_as_they_did(tiny):
    maps, places = AttentionMaps(keep=("step", "layer", "head")), SelfAttentionMaps()
    result = run(tiny, maps, places, images_per_prompt=2)
    again = pickle.loads(pickle.dumps(result))
    for method in ("mean", "daam"):
        for image in (0, 1):
            here = result[maps].heat_map("circle", image=image, method=method)
            there = again[AttentionMaps].heat_map("circle", image=image, method=method)
            assert torch.equal(here.values, there.values)
            assert here.picture.tobytes() == there.picture.tobytes()
    record = pickle.loads(pickle.dumps(result[maps]))
    assert torch.equal(record.heat_map("red", step=1).values, result[maps].heat_map("red", step=1).values)
    assert repr(record) == repr(maps)


def test_the_model_is_named_and_left_out(tiny):
    result = run(tiny, LatentRecorder())
    packed = pickle.dumps(result)
    again = pickle.loads(packed)
    assert len(packed) < 200_000
    assert again.model_name == result.model_name == repr(tiny)
    with pytest.raises(AttributeError, match=r"came out of a pickle.*made by StableDiffusion\("):
        _ = again.model
    assert copy.deepcopy(result).model is tiny
    assert pickle.loads(pickle.dumps(again)).model_name == repr(tiny)


@pytest.mark.parametrize("name", OBSERVERS)
def test_a_record_alone_names_the_model(tiny, name, reopened):
    """One of a live run, and one of a run that was opened."""
    result = run(tiny, made(name, tiny), prompt=tried(name).prompt)
    for kept in (result, reopened(result)):
        record = pickle.loads(pickle.dumps(kept.records[0][1]))
        assert record.run.model_name == repr(tiny)


def test_a_copy_is_asked_by_the_hooks_that_were_given(tiny):
    maps, late = AttentionMaps(), only(recorder := LatentRecorder(), steps=[1])
    result = run(tiny, maps, late)
    again = copy.deepcopy(result)
    assert again[maps] is not result[maps]
    assert torch.equal(again[maps].heat_map("red").values, result[maps].heat_map("red").values)
    assert torch.equal(again[recorder]["latents"], result[recorder]["latents"])
    result[recorder].at(1)["latents"].zero_()
    assert again[recorder].at(1)["latents"].any()


def test_a_run_is_asked_by_class(tiny):
    maps = AttentionMaps()
    result = run(tiny, maps, LatentRecorder(), LatentRecorder())
    assert result[AttentionMaps] is result[maps]
    with pytest.raises(KeyError, match="2 times"):
        result[LatentRecorder]
    with pytest.raises(KeyError, match="not a hook of this run"):
        result[Checkpoints]


def test_what_was_kept_goes_on_in_a_copy(tiny):
    result = run(tiny, Checkpoints(), steps=4)
    again = copy.deepcopy(result)
    assert same_run(sdprobe.resume(again, step=2, progress=False), result)


def test_an_attached_run_too():
    pipe, maps = stable_diffusion(), AttentionMaps()
    pipe.set_progress_bar_config(disable=True)
    with attach(pipe, [maps]) as result:
        assert "has not been called" in repr(copy.copy(result))
        pipe("a red circle", num_inference_steps=2)
    again = pickle.loads(pickle.dumps(result))
    assert torch.equal(again[AttentionMaps].heat_map("red").values, result[maps].heat_map("red").values)


def test_in_a_process_that_never_loads_a_model(tiny, tmp_path):
    result = run(tiny, AttentionMaps(), LatentRecorder())
    (tmp_path / "run.pickle").write_bytes(pickle.dumps(result))
    torch.save(result[AttentionMaps].heat_map("circle").values, tmp_path / "expected.pt")
    script = (
        "import pickle, torch, sdprobe, pathlib\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "run = pickle.loads((folder / 'run.pickle').read_bytes())\n"
        "found = run[sdprobe.AttentionMaps].heat_map('circle', method='mean').values\n"
        "assert torch.equal(found, torch.load(folder / 'expected.pt', weights_only=True))\n"
        "assert run[sdprobe.LatentRecorder]['latents'].shape[0] == 2\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_shallow_copy_is_the_same_run(tiny):
    result = run(tiny, LatentRecorder())
    assert vars(copy.copy(result)) == vars(result)


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_an_opened_run_and_its_records_too(tiny, tmp_path, way):
    hooks = {name: made(name, tiny) for name in NAMES if not tried(name).unrepeatable}
    hooks = {name: hook for name, hook in hooks.items() if isinstance(hook, sdprobe.Observer)}
    result = sdprobe.sample(tiny, "a red circle", hooks=hooks, steps=2, seed=0, progress=False)
    saved = sdprobe.open(result.save(tmp_path / "run"))
    for name in hooks:
        whole = saved[name]
        record = copy.deepcopy(whole) if way == "deepcopy" else pickle.loads(pickle.dumps(whole))
        assert difference(records_of(record), records_of(whole)) is None, name
    again = copy.deepcopy(saved) if way == "deepcopy" else pickle.loads(pickle.dumps(saved))
    assert repr(again) == repr(result)
    assert torch.equal(again[AttentionMaps].heat_map("red").values, result[AttentionMaps].heat_map("red").values)
