"""The script of ``make gpu``: it says where there is no GPU, and on tiny models it fills its table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def printed(*arguments):
    """What the script prints in a process that sees no GPU."""
    script = [sys.executable, "tests/benchmarks/gpu.py", *arguments]
    return subprocess.run(script, cwd=ROOT, env=WITHOUT_GPU, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_without_a_gpu_it_says_so_in_one_line():
    assert printed() == "no CUDA device here: nothing was measured\n"


@pytest.mark.slow
def test_every_way_gives_the_stock_pipelines_run(tmp_path):
    shown = printed("--tiny", "--quick", "--only", "SD 1.5", "--out", str(tmp_path / "costs.md"))
    written = (tmp_path / "costs.md").read_text("utf-8")
    assert written.strip() in re.sub(r"\n+measured in \d+ s\n", "", shown)
    rows = [line.split("|")[1:-1] for line in written.splitlines() if line.startswith("|")][2:]
    equal = {row[0].strip(): row[-1].strip() for row in rows}
    ours = {name for name in equal if name.split(",")[0] in ("sample", "attach")}
    assert ours >= {"sample", "sample, maps of all tokens", "sample, self-attention maps", "attach"}
    assert {equal[name] for name in ours} == {"latents, picture"}
    assert equal["the stock pipeline, again"] == "picture"
