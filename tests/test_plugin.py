"""A hook of somebody else's package: installed, listed, used by its name, and held to the laws by its own test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent.parent / "examples" / "plugin"
USED = """
import sdprobe
run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=["attention-entropy"], steps=3, seed=0, progress=False)
entropy = run["attention-entropy"].of("circle")
assert entropy.shape == (3, 1) and 0 < entropy.min() and entropy.max() < 1, entropy
print(type(run["attention-entropy"]).__module__, sdprobe.create("attention-entropy"))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The plugin, installed into a folder of its own; it is copied first, since building leaves files beside it."""
    source, site = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN, source)
    told = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", site, source]
    subprocess.run([sys.executable, "-m", "pip", "install", *told], check=True, capture_output=True, text=True)
    return site


def ran(site: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=site, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed(installed):
    assert "attention-entropy" in ran(installed, "-m", "sdprobe.cli", "hooks")


def test_it_is_used_by_its_name(installed):
    assert ran(installed, "-c", USED) == "sdprobe_attention_entropy AttentionEntropy()\n"


@pytest.mark.slow
def test_its_own_test_holds_it_to_the_laws(installed):
    shutil.copy(PLUGIN / "test_attention_entropy.py", installed)
    assert "1 passed" in ran(installed, "-m", "pytest", "-p", "no:cacheprovider", "test_attention_entropy.py")
