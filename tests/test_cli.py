"""The command line: what it writes, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from sdprobe.cli import main, parse_hook


def test_it_writes_the_picture_the_words_the_sheet_and_the_settings(tmp_path, capsys):
    out = tmp_path / "out"
    prompt = "a red circle left of a blue square"
    assert main([prompt, "--out", str(out), "--steps", "2", "--seed", "3", "--hook", "latents:every=2", "--quiet"]) == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(path) for path in out.iterdir())
    names = sorted(path.name for path in out.iterdir())
    assert names[:2] == ["picture.png", "settings.json"]
    words = [name for name in names if name.startswith("word-")]
    assert words[:3] == ["word-00-a.png", "word-01-red.png", "word-02-circle.png"]
    assert len(words) == 7
    assert Image.open(out / "picture.png").size == (64, 64)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["prompt"] == [prompt]
    assert (settings["seed"], settings["steps"], settings["hooks"]) == (3, 2, [["latents", {"every": 2}]])


def test_it_writes_a_report(tmp_path, capsys):
    out = tmp_path / "out"
    hooks = ["--hook", 'preview:keep=["denoised"]']
    assert main(["a <b>red</b> circle", "--out", str(out), "--steps", "2", "--report", "--quiet", *hooks]) == 0
    assert capsys.readouterr().out.split()[-1] == str(out / "report.html")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt;red&lt;/b&gt; circle" in page
    assert "Standard deviation over the steps" in page
    assert page.count('class="film"') == 1  # the preview that was asked for is not recorded once more


def test_the_same_command_writes_the_same_picture(tmp_path):
    for name in ("one", "two"):
        main(["a star", "--out", str(tmp_path / name), "--steps", "2", "--seed", "3", "--quiet"])
    assert (tmp_path / "one" / "picture.png").read_bytes() == (tmp_path / "two" / "picture.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a star", "--hook", "latent"], "no hook is called 'latent'; did you mean 'latents'?"),
        (["a star", "--hook", "latents:5"], "'5' is not key=value"),
        (["a star", "--hook", "replace-token:word=moon,with_=star"], "'moon' is not in the prompt"),
        (["a star", "--steps", "0"], "steps must be 1 or more"),
        (["a star", "--model", "no/such/folder"], "neither a file or folder here nor a hub id"),
        (["a star", "--scheduler", "magic"], "'magic' does not fit this pipeline"),
        (["a star", "--seed", "99999999999999999999"], "a seed is a number from 0"),
        (["  "], "the prompt is empty"),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_unknown_options_exit_with_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["a star", "--sead", "3"])
    assert stopped.value.code == 2


def test_hooks_are_listed(capsys):
    assert main(["hooks"]) == 0
    assert "attention-maps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("progress", ("progress", {})),
        ('latents:every=2,keep=["latents","denoised"]', ("latents", {"every": 2, "keep": ["latents", "denoised"]})),
        ("replace-token:word=red circle,with_=star", ("replace-token", {"word": "red circle", "with_": "star"})),
    ],
)
def test_hook_arguments(text, expected):
    assert parse_hook(text) == expected


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sdprobe.cli", "hooks"], capture_output=True, text=True, check=True)
    assert "replace-token" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(tmp_path, capsys):
    assert main(["a star", "--device", "cuda", "--out", str(tmp_path), "--quiet"]) == 2
    assert "torch sees no GPU here" in capsys.readouterr().err
