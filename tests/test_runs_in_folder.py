"""Many runs: listed, opened one at a time, filtered, and as a table; what is broken is said and in nobody's way."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, Runs, only
from tests.laws.strategies import run

NAMES = [f"sweep/{scheduler}-{seed}" for scheduler in ("DDIMScheduler", "EulerDiscreteScheduler") for seed in range(3)]


@pytest.fixture(scope="module")
def home(tiny, tmp_path_factory) -> Path:
    """Six runs of two schedulers and three seeds, and two of two prompts."""
    home = tmp_path_factory.mktemp("runs")
    for name in NAMES:
        scheduler, seed = name.removeprefix("sweep/").split("-")
        run(tiny, LatentRecorder(), seed=int(seed), scheduler=scheduler, steps=2 + int(seed)).save(home / name)
    both = {"prompt": ["a red circle", "a blue star"], "seed": [7, 8]}
    maps = {"maps": only(AttentionMaps(), rows=[1])}
    sdprobe.sample(tiny, **both, hooks=maps, steps=2, progress=False).save(home / "two")
    (home / "notes.txt").write_text("not a run")
    return home


@pytest.fixture
def copied(home, tmp_path) -> Path:
    """The same runs, to be damaged."""
    return shutil.copytree(home, tmp_path / "runs")


def test_they_are_a_sequence(home):
    runs = Runs(home)
    assert runs.names == (*NAMES, "two")
    assert len(runs) == 7
    assert [own.folder for own in runs] == [home / name for name in runs.names]
    assert runs[0].folder == home / NAMES[0]
    assert runs[-1].folder == home / "two"
    assert [own.folder for own in reversed(runs)] == [own.folder for own in runs][::-1]
    assert isinstance(runs[1:3], Runs)
    assert runs[1:3].names == runs.names[1:3]
    assert runs[::-1].names == runs.names[::-1]
    assert repr(runs) == f"Runs(7 runs in {str(home)!r})"
    for number in (7, -8):
        with pytest.raises(IndexError, match="there are 7 runs"):
            runs[number]


def test_a_run_by_the_name_of_its_folder(home, copied):
    runs = Runs(home)
    assert runs["two"].prompts[1].text == "a blue star"
    assert runs[NAMES[1]].seed == runs["DDIMScheduler-1"].seed == 1
    with pytest.raises(KeyError, match="no run is called 'three'"):
        runs["three"]
    shutil.copytree(copied / NAMES[1], copied / "other" / "DDIMScheduler-1")
    with pytest.raises(KeyError, match="2 folders are called 'DDIMScheduler-1': ask with the path"):
        Runs(copied)["DDIMScheduler-1"]


def test_an_opened_run_answers_as_any_other(home):
    found, alone = Runs(home)[NAMES[2]], sdprobe.open(home / NAMES[2])
    assert repr(found) == repr(alone)
    assert torch.equal(found.latents, alone.latents)
    assert torch.equal(found[LatentRecorder]["latents"], alone[LatentRecorder]["latents"])
    assert found.images == alone.images


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"steps": 3}, [name for name in NAMES if name.endswith("1")]),
        ({"scheduler": "DDIMScheduler", "steps": lambda steps: steps > 2}, NAMES[1:3]),
        ({"seed": lambda seed: seed > 1, "hooks": LatentRecorder}, [NAMES[2], NAMES[5]]),
        ({"seed": 8}, ["two"]),
        ({"seed": [7, 8]}, ["two"]),
        ({"prompt": "a blue star"}, ["two"]),
        ({"prompt": ("a red circle",)}, NAMES),
        ({"hooks": "maps"}, ["two"]),
        ({"hooks": "attention-maps"}, ["two"]),
        ({"hooks": "AttentionMaps"}, ["two"]),
        ({"hooks": AttentionMaps}, ["two"]),
        ({"hooks": "latents", "steps": 4}, [NAMES[2], NAMES[5]]),
        ({"strength": None, "hooks": "maps"}, ["two"]),
        ({"strength": lambda strength: strength < 1}, []),
        ({"guidance_scale": 3}, NAMES),
        ({}, [*NAMES, "two"]),
    ],
)
def test_by_settings(home, asked, names):
    assert Runs(home).where(**asked).names == tuple(names)


def test_by_model(home):
    runs = Runs(home)
    provenance = runs[0].provenance
    assert len(runs.where(model=provenance.model)) == len(runs.where(model=provenance.weights)) == 7
    assert len(runs.where(model="another")) == 0
    assert len(runs.where(model=lambda name: "StableDiffusion" in name)) == 7


def test_one_filter_after_another(home):
    runs = Runs(home)
    assert runs.where(steps=2).where(seed=0).names == runs.where(steps=2, seed=0).names
    assert runs[2:].where(steps=2)[0].folder == home / NAMES[3]


def test_settings_that_there_are_none_of(home):
    with pytest.raises(ValueError, match=r"no setting 'sheduler'; did you mean 'scheduler'\?"):
        Runs(home).where(sheduler="DDIMScheduler")
    with pytest.raises(ValueError, match="neither a value nor a function"):
        Runs(home).where(steps={2, 3})
    with pytest.raises(ZeroDivisionError) as caught:
        Runs(home).where(seed=lambda seed: 1 / seed)
    assert NAMES[0] in caught.value.__notes__[0]


def test_a_table(home):
    runs = Runs(home)
    table = runs.table(
        {"norm": lambda own: own.latents.norm(), "first": lambda own: own["maps"].heat_map("blue").shape}
    )
    lines = str(table).splitlines()
    assert lines[0].split()[:3] == ["folder", "saved", "model"]
    assert {"steps", "seed", "scheduler", "prompt", "norm"} <= set(lines[0].split())
    assert "height" not in lines[0]
    assert "height 16" in lines[-1]
    assert lines[1].startswith(NAMES[0])
    assert f"{runs[0].latents.norm():.4g}" in lines[1]
    assert "KeyError: " in lines[1]
    assert len(lines) == 9
    assert "<td>sweep/DDIMScheduler-0</td>" in table._repr_html_()
    frame = table.to_pandas()
    assert list(frame["norm"]) == [own.latents.norm().item() for own in runs]
    assert list(frame["folder"]) == list(runs.names)
    assert frame["first"].isna().sum() == 7
    assert frame["first error"].str.startswith("KeyError").sum() == 6
    assert frame.attrs["height"] == 16
    with pytest.raises(ValueError, match="cannot be called 'steps'"):
        runs.table({"steps": len})


def test_a_table_of_none(tmp_path):
    runs = Runs(tmp_path)
    assert len(runs) == 0
    assert list(runs) == []
    assert str(runs.table()).splitlines()[-1] == "0 runs"
    assert len(runs.table({"x": len}).to_pandas()) == 0
    assert "<table>" in runs._repr_html_()


def test_broken_folders_are_said_once_and_left_out(copied):
    (copied / NAMES[0] / "run.json").write_text("{")
    (copied / NAMES[1] / "run.json").unlink()
    os.mkfifo(copied / NAMES[1] / "run.json")
    path = copied / NAMES[2] / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "complete": False}))
    (copied / "begun" / ".saving").mkdir(parents=True)
    (copied / "ours").mkdir()
    (copied / "ours" / "run.json").write_text('{"some": "other file of this name"}')
    runs = Runs(copied)
    with pytest.warns(
        UserWarning, match=r"those that do not are left out; the first is 'begun'.*See Runs\.broken"
    ) as said:
        assert [own.folder.name for own in runs] == [Path(name).name for name in (*NAMES[3:], "two")]
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(runs) == len(list(runs)) == 4
        assert len(runs.where(steps=2)) == 2
        broken = runs.broken
    assert list(broken) == [copied / name for name in ("begun", "ours", *NAMES[:3])]
    reasons = list(broken.values())
    for reason, words in zip(reasons, ["missing", "no run of sdprobe", "JSON", "is no file", "its end"], strict=True):
        assert words in reason
    with pytest.raises(ValueError, match=r"holds no whole run: .*not saved to its end"):
        runs[NAMES[2]]


def test_runs_that_come_and_go_meanwhile(copied):
    runs = Runs(copied)

    def gone_through():
        for i, own in enumerate(runs):
            shutil.copytree(copied / "two", copied / "sweep" / f"new-{i}")
            shutil.rmtree(copied / NAMES[4], ignore_errors=True)
            yield own

    with pytest.warns(UserWarning, match="left out"):
        found = list(gone_through())
    assert len(found) == 6
    assert list(runs.broken) == [copied / NAMES[4]]
    assert len(Runs(copied)) == 12


def test_only_run_json_is_read_and_once(copied):
    for path in copied.rglob("*"):
        if path.is_file() and path.name != "run.json":
            path.unlink()
    runs = Runs(copied)
    assert len(runs.where(seed=lambda seed: seed < 3)) == 6
    for path in copied.rglob("run.json"):
        path.unlink()
    assert len(runs) == 7
    assert [own.settings.steps for own in runs.where(steps=3)] == [3, 3]


def test_what_is_read_of_a_run_is_not_kept(home):
    runs = Runs(home)
    first = runs[0]
    _ = first.images, first[LatentRecorder]
    assert "images" in vars(first)
    again = runs[0]
    assert "images" not in vars(again)
    assert not again._restored


def test_links_are_not_followed_and_hidden_folders_not_looked_into(copied, tmp_path, home):
    (copied / "link").symlink_to(home)
    (copied / "round").symlink_to(copied)
    shutil.copytree(copied / "two", copied / ".trash" / "two")
    shutil.copytree(copied / "two", copied / "a/b/c/d/e/two")
    shutil.copytree(copied / "two", copied / "a/b/c/d/two")
    assert Runs(copied).names == ("a/b/c/d/two", *NAMES, "two")
    shutil.copytree(copied / "two", tmp_path / "apart")
    (copied / "two" / "run.json").unlink()
    (copied / "two" / "run.json").symlink_to(tmp_path / "apart" / "run.json")
    with pytest.warns(UserWarning, match="leads out of the folder of the run"):
        assert "two" not in Runs(copied).names


def test_a_folder_that_is_a_run(home):
    runs = Runs(home / "two")
    assert len(runs) == 1
    assert runs.names == (".",)
    assert runs[0].settings.steps == 2


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        Runs(tmp_path / "nowhere")


def test_control_characters_are_not_shown(copied, tmp_path):
    (copied / "two").rename(copied / "\x1b[31mtwo\u202e")
    table = str(Runs(copied).table({"bad": lambda own: {}["\x1b[2J"]}))
    assert "\x1b" not in table
    assert "\u202e" not in table
    assert r"\x1b[31mtwo" in table
