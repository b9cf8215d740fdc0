"""A recording on disk holds what one in memory holds, and outlives its run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sdprobe
from sdprobe import LatentRecorder, Recording
from tests.laws.strategies import run

KEPT = ("latents", "noise_pred", "denoised")
KILLED = """
import os, signal, sys
import torch, sdprobe
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

torch.set_num_threads(1)

class Killer(sdprobe.Observer):
    def model_output(self, x, step):
        if step.index == 3:
            os.kill(os.getpid(), signal.SIGKILL)

recorder = sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised"), folder=sys.argv[1])
run(sdprobe.load(stable_diffusion()), recorder, Killer(), steps=6)
"""


@pytest.mark.parametrize("chosen", [{}, {"every": 2}, {"steps": [1, 4]}, {"dtype": torch.bfloat16}])
def test_disk_and_memory_hold_the_same(tiny, tmp_path, chosen):
    memory = LatentRecorder(keep=KEPT, **chosen)
    disk = LatentRecorder(keep=KEPT, folder=tmp_path / "deep" / "er", **chosen)
    result = run(tiny, memory, disk, steps=5, images_per_prompt=2)
    for own in (result[disk], Recording(disk.folder)):
        assert own.indices == result[memory].indices
        assert torch.equal(own.final, result[memory].final)
        for name in KEPT:
            assert own[name].dtype == result[memory][name].dtype
            assert torch.equal(own[name], result[memory][name])
            assert torch.equal(own.at(own.indices[-1])[name], result[memory].at(own.indices[-1])[name])


def test_a_run_that_is_killed_leaves_every_step_it_finished(tiny, tmp_path):
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=root, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left, whole = Recording(tmp_path), LatentRecorder(keep=KEPT)
    result = run(tiny, whole, steps=6)
    assert left.indices == [0, 1, 2]
    for name in KEPT:
        assert torch.equal(left[name], result[whole][name][:3])
    with pytest.raises(KeyError, match="has not come to its end"):
        _ = left.final


def test_a_step_can_be_read_while_the_run_goes_on(tiny, tmp_path):
    recorder, seen = LatentRecorder(folder=tmp_path), []

    class Reader(sdprobe.Observer):
        def noise_pred(self, x, step):
            assert torch.equal(Recording(tmp_path).at(step.index)["latents"], step.latents)
            seen.append(Recording(tmp_path).indices)

    run(tiny, recorder, Reader(), steps=3)
    assert seen == [[0], [0, 1], [0, 1, 2]]


def test_a_file_that_is_not_whole_is_not_there(tiny, tmp_path, monkeypatch):
    """Whatever the writing stops at, a step's file is the whole step or does not exist."""
    from sdprobe.core import step_files

    def torn(tensors, path, metadata):
        Path(path).write_bytes(b"half a st")
        raise OSError("no space left on device")

    result = LatentRecorder(folder=tmp_path)
    monkeypatch.setattr(step_files, "save_file", torn)
    with pytest.raises(OSError, match="no space left"):
        run(tiny, result, steps=2)
    assert Recording(tmp_path).indices == []
    with pytest.raises(KeyError, match="step 0 was not kept; kept: none"):
        Recording(tmp_path).at(0)


def test_errors(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere' to read a recording from"):
        Recording(tmp_path / "nowhere")
    recorder = LatentRecorder(folder=tmp_path)
    result = run(tiny, recorder)
    with pytest.raises(ValueError, match="has something in it: every recording needs one of its own"):
        run(tiny, recorder)
    for own in (result[recorder], Recording(tmp_path)):
        with pytest.raises(KeyError, match="'denoised' was not kept; kept: latents"):
            own["denoised"]
        with pytest.raises(KeyError, match="step 7 was not kept; kept: 0, 1"):
            own.at(7)
    nothing = LatentRecorder(steps=[])
    with pytest.raises(KeyError, match="no step was kept"):
        run(tiny, nothing)[nothing]["latents"]
    assert repr(Recording(tmp_path)).endswith("2 steps)")
