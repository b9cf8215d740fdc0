"""Every built-in hook on every family, by `sample` and by `attach`: saved, opened in another process, and asked."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sdprobe
from sdprobe import Activations, AttentionMaps, LatentRecorder, Observer, Preview
from sdprobe.core import registry
from sdprobe.core.hook import matches
from sdprobe.testing.flat_records import difference
from tests.answers import answers, asked
from tests.configured import feed_forward, made, ours, tried
from tests.families import FAMILIES
from tests.grid import SHOWN, WAYS, settings_of

RECORDING = ("features", "loss-guidance", "attend-and-excite", "layout-guidance")
"""The transforms that record something."""

VIDEO = "Wan 2.1"
"""A family of videos whose model is small."""

Named = tuple[str, sdprobe.Run]


def recording() -> list[str]:
    """The hooks that record something."""
    kinds = {name: registry.names()[name].load() for name in ours()}
    return [name for name, kind in kinds.items() if name in RECORDING or issubclass(kind, Observer)]


def records_in(model: sdprobe.Model, name: str) -> bool:
    """Whether the family of a model does not refuse a hook, as the grid of the docs shows."""
    try:
        sdprobe.sample(model, tried(name).prompt, hooks=[made(name, model)], **settings_of(model))
    except (ValueError, RuntimeError, KeyError):
        return False
    return True


def strongest(x: torch.Tensor, site: sdprobe.Site) -> torch.Tensor:
    return x.flatten(1).amax(1, keepdim=True)


def with_more(model: sdprobe.Model, folder: Path) -> dict[str, sdprobe.Observer]:
    """Observers that keep more than usual, keep it in a folder, or have an argument that no file can hold."""
    within, last = feed_forward(model), "text_encoder*final_layer_norm"
    last = last if any(matches(name, last) for name in model.modules_outside) else "text_encoder*.norm"
    return {
        "all maps": AttentionMaps(keep=("step", "layer", "head"), dtype="float16"),
        "some maps": AttentionMaps(["circle"], keep="step"),
        "all latents": LatentRecorder(keep=("latents", "noise_pred", "denoised"), folder=folder / "latents"),
        "late latents": LatentRecorder(steps=[1], dtype="bfloat16"),
        "on disk": Activations(within, sides=("input", "output"), to=folder / "activations"),
        "strongest": Activations([last, within], reduce=strongest, rows="cond"),
        "shown": Preview("vae", keep=["denoised"], show=lambda pictures: None),
    }


def refuse_unequal(folder: Path, runs: Iterable[Named]) -> None:
    """Save runs, open them all in another process, and compare what they answer there with what they answer here."""
    live, names = {}, {}
    for name, run in runs:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing may be left out
            run.save(folder / name)
        names[name] = asked(run)
        live[name] = answers(run, names[name])
    (folder / "asked.pickle").write_bytes(pickle.dumps(names))
    subprocess.run([sys.executable, "-m", "tests.answers", str(folder)], check=True)
    found = pickle.loads((folder / "answers.pickle").read_bytes())
    assert found.keys() == live.keys()
    for name, own in live.items():
        assert len(own) > 30, name
        assert difference(own, found[name]) is None, name


def ended(family: str, way: str) -> Iterator[Named]:
    """A run with each hook alone that the family does not refuse."""
    model = sdprobe.load(FAMILIES[family]())
    for name in ours():
        try:
            run = WAYS[way](model, tried(name).prompt, hooks={name: made(name, model)}, **settings_of(model))
        except (ValueError, NotImplementedError):  # which the grid of the docs shows, with the reason
            continue
        yield f"{name} {way}", run


def recorded(folder: Path, families: Iterable[str]) -> Iterator[Named]:
    """All hooks that record, together in one run of each family, both ways."""
    for family in families:
        model: Any = sdprobe.load(FAMILIES[family]())
        for way, make in WAYS.items():
            name = f"{family} {way}"
            hooks = {name: made(name, model) for name in recording() if records_in(model, name)}
            hooks |= with_more(model, folder / f"{name} beside")
            yield name, make(model, "a red circle", hooks=hooks, **settings_of(model))


@pytest.mark.slow
def test_what_runs_recorded_is_answered_where_no_model_is(tmp_path):
    refuse_unequal(tmp_path, recorded(tmp_path, (*SHOWN, VIDEO)))


@pytest.mark.nightly
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in (*SHOWN, VIDEO)])
def test_in_every_other_variant_too(family, tmp_path):
    refuse_unequal(tmp_path, recorded(tmp_path, [family]))


@pytest.mark.grid
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", SHOWN)
def test_each_hook_alone_too(family, way, tmp_path):
    refuse_unequal(tmp_path, ended(family, way))
