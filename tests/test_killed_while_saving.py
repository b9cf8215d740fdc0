"""A process that is killed while it saves or records leaves whole files only, and says what it did not finish.

Each child is forked, works in a loop, and is killed (SIGKILL) a drawn moment after it has written so many files: what
is reached does not hang on how fast the machine is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import sdprobe
from sdprobe import ActivationRecord, Activations, AttentionMaps, LatentRecorder, Recording, Runs
from sdprobe.core.run import Run
from sdprobe.testing.flat_records import difference, records_of
from tests.laws.strategies import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="of POSIX")

MAPS, LATENTS = AttentionMaps(keep=("step", "layer")), LatentRecorder(keep=("latents", "denoised"))


@pytest.fixture(scope="module")
def live(tiny) -> Run:
    return run(tiny, MAPS, LATENTS, images_per_prompt=2)


def written(home: Path) -> int:
    return sum(not name.startswith(".") for _, _, names in os.walk(home) for name in names)


def killed(work: Callable[[], None], home: Path, files: int, then: float) -> None:
    """Do something over and over in a forked process, and kill it some seconds after it has written these files."""
    if not (child := os.fork()):
        try:
            work()
        finally:
            os._exit(1)
    while written(home) < files:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child stopped by itself"
        time.sleep(0.0005)
    time.sleep(then)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child stopped by itself"


def all_whole(folder: Path) -> Counter[str]:
    """Read every file to its end; return how many of each kind there are."""
    found: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 it is no dictionary
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            Image.open(path).load()
        found[path.suffix] += 1
    return found


def agrees(folder: Path, live: Run) -> str:
    """Hold what a folder holds to the run that was saved; return whether it holds all, a part or nothing."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            saved = sdprobe.open(folder)
        except FileNotFoundError:
            return "nothing"
    assert saved.complete == (not said)
    assert all("not saved to its end" in str(own.message) for own in said)
    assert repr(saved) == repr(live)
    asked: dict[str, Callable[[], bool]] = {
        "prompts": lambda: saved.prompts == live.prompts,
        "negative": lambda: saved.negative_prompts == live.negative_prompts,
        "coverage": lambda: str(saved.coverage) == str(live.coverage),
        "latents": lambda: torch.equal(saved.latents, live.latents),
        "images": lambda: saved.images == live.images,
        "maps": lambda: (
            difference(records_of(saved[MAPS].sums), records_of(live[MAPS].sums)) is None
            and torch.equal(saved[MAPS].heat_map("red").values, live[MAPS].heat_map("red").values)
        ),
        "recorded": lambda: torch.equal(saved[LATENTS]["denoised"], live[LATENTS]["denoised"]),
    }
    missing = {}
    for name, same in asked.items():
        try:
            assert same(), name
        except ValueError as error:
            missing[name] = str(error)
    assert all("missing in" in said for said in missing.values())
    assert not (saved.complete and missing)
    return "all" if saved.complete else "a part"


def test_while_saving(live, tmp_path):
    """15 times, spread over the files that are saved; every second one saves what was opened."""
    whole = sdprobe.open(live.save(tmp_path / "whole"))
    assert agrees(tmp_path / "whole", live) == "all"
    of_one = written(tmp_path / "whole")
    drawn, outcomes = random.Random(0), Counter()
    for i in range(15):
        home = tmp_path / f"killed-{i}"
        home.mkdir()
        own = whole if i % 2 else live

        def work(own=own, home=home) -> None:
            for k in count():
                own.save(home / str(k))

        killed(work, home, of_one * i // 8, drawn.random() / 50)
        all_whole(home)
        here = Counter(agrees(folder, live) for folder in sorted(home.iterdir()))
        assert here["a part"] + here["nothing"] <= 1, "at most the last was under way"
        outcomes += here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(Runs(home)) == here["all"]
            assert len(Runs(home).broken) <= here["a part"] + here["nothing"]
    assert outcomes["all"] > 3
    assert outcomes["a part"] + outcomes["nothing"] > 3


def test_while_recording(tiny, tmp_path):
    """15 times, spread over the files of a run: every step that has a file has all of it."""
    settings = {"steps": 4, "guidance_scale": 3.0, "seed": 0, "progress": False}

    def recorded(home: Path) -> Run:
        hooks = [
            LatentRecorder(keep=("latents", "denoised"), folder=home / "latents"),
            Activations("mid_block*", to=home / "activations"),
        ]
        return sdprobe.sample(tiny, "a red circle", hooks=hooks, **settings)

    recorded(tmp_path / "first")
    of_one = written(tmp_path / "first")
    latents = Recording(tmp_path / "first" / "latents")
    activations = ActivationRecord.open(tmp_path / "first" / "activations")
    drawn, steps, ended = random.Random(1), 0, 0
    for i in range(15):
        home = tmp_path / f"killed-{i}"

        def work(home=home) -> None:
            for k in count():
                recorded(home / str(k))

        killed(work, home, of_one * i // 8, drawn.random() / 10)
        all_whole(home)
        for folder in home.glob("*/latents"):
            own = Recording(folder)
            for index in own.indices:
                for name, x in latents.at(index).items():
                    assert torch.equal(own.at(index)[name], x)
            steps += len(own.indices)
            ended += (folder / "final.safetensors").exists()
        for folder in home.glob("*/activations"):
            if not (folder / "record.json").exists():
                continue
            kept = ActivationRecord.open(folder)
            for key in kept.keys:
                for index in kept.indices:
                    assert torch.equal(kept.at(index, key), activations.at(index, key))
    assert steps > 10
    assert ended > 0
