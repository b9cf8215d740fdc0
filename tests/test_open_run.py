"""A saved run is opened as what it was: of this version, of older ones, and never of a newer one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, Observer, only
from sdprobe.runs.saved.run_folder import SCHEMA
from tests.laws.strategies import run
from tests.saved_runs import make_video
from tests.saved_runs.make import answers_of, tensors_of

KEPT = Path(__file__).parent / "saved_runs"


@pytest.fixture
def folder(tmp_path):
    """A copy of the kept run."""
    return shutil.copytree(KEPT / f"schema-{SCHEMA}", tmp_path / "run")


def changed(folder: Path, **values: object) -> Path:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_a_run_of_every_schema_answers_as_it_did(schema):
    saved = sdprobe.open(KEPT / f"schema-{schema}")
    refuse_other_answers(f"schema-{schema}", tensors_of(saved), answers_of(saved))


def refuse_other_answers(name: str, tensors: dict[str, torch.Tensor], answers: dict[str, object]) -> None:
    """Fail for other answers than those that are kept beside a folder."""
    expected = load_file(KEPT / f"{name}.safetensors")
    assert tensors.keys() == expected.keys()
    for own, x in expected.items():
        # What is saved is the same to the last bit; a map is interpolated, which not every processor rounds alike.
        torch.testing.assert_close(tensors[own], x, rtol=1e-5, atol=1e-6, msg=own)
    assert json.loads(json.dumps(answers)) == json.loads((KEPT / f"{name}.json").read_text())


def test_a_run_of_videos_with_every_observer_answers_as_it_did():
    saved = sdprobe.open(KEPT / make_video.NAME)
    tensors, answers = make_video.tensors_of(saved), make_video.answers_of(saved)
    refuse_other_answers(make_video.NAME, tensors, answers)
    every = " ".join([*tensors, *answers])
    assert all(name in every for hook in saved.hooks for name in hook.asked_as)
    assert {hook.description.name for hook in saved.hooks} >= OBSERVERS


OBSERVERS = {
    *("activations", "attention-maps", "attention-matrices", "attention-queries", "attention-recorder", "checkpoints"),
    *("concept-outputs", "latents", "preview", "progress", "self-attention-maps", "statistics", "word-gradients"),
}
"""Those that the kept run of videos has. A later one has a kept run of its own."""


def test_a_newer_schema_is_refused_by_number(folder):
    with pytest.raises(ValueError, match=rf"has schema {SCHEMA + 1}.*up to {SCHEMA}: install a newer one"):
        sdprobe.open(changed(folder, schema=SCHEMA + 1))


@pytest.mark.parametrize("schema", [0, -1, 1.0, "1", None, True, [1]])
def test_what_is_no_schema(folder, schema):
    with pytest.raises(ValueError, match="no run of sdprobe"):
        sdprobe.open(changed(folder, schema=schema))


def test_further_keys_of_the_same_schema_are_ignored(folder):
    before = sdprobe.open(folder)
    for name in ("run.json", "prompts.json", "coverage.json", *(f"hooks/0{i}/records.json" for i in (0, 1, 3))):
        path = folder / name
        path.write_text(json.dumps(with_more(json.loads(path.read_text()), name)))
    after = sdprobe.open(folder)
    assert answers_of(after) == answers_of(before)
    assert torch.equal(after["maps"].heat_map("red").values, before["maps"].heat_map("red").values)


def with_more(content: dict, name: str) -> dict:
    """A file with a further key wherever a later version may add one."""
    content["later"] = {"a": [1]}
    if name == "run.json":
        for own in (content["settings"], content["provenance"], *content["hooks"]):
            own["later"] = [None]
    if name == "prompts.json":
        for prompt in content["prompts"]:
            prompt["later"] = 1
    return content


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no saved run in"):
        sdprobe.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no saved run in.*it has no run\.json"):
        sdprobe.open(tmp_path)


def test_a_run_that_was_not_saved_to_its_end(folder):
    changed(folder, complete=False)
    (folder / "prompts.json").unlink()
    (folder / "hooks/01/records.json").unlink()
    with pytest.warns(UserWarning, match="not saved to its end"):
        saved = sdprobe.open(folder)
    assert not saved.complete
    assert saved.latents.shape == (2, 4, 8, 8)
    with pytest.raises(ValueError, match=r"prompts\.json is missing in .*: the run was not saved completely"):
        _ = saved.prompts
    with pytest.raises(ValueError, match=r"hooks/01/records\.json is missing"):
        saved["latents"]


def test_nothing_is_read_before_it_is_asked_for(folder):
    for path in [*folder.rglob("*.safetensors"), *folder.rglob("*.png"), folder / "prompts.json"]:
        path.unlink()
    saved = sdprobe.open(folder)
    assert saved.settings.steps == 2
    assert saved["latents"].indices == [0, 1]
    with pytest.raises(ValueError, match="missing"):
        saved["latents"].at(0)["latents"]


def test_a_run_is_asked_by_name_class_and_equal_hook(tiny, tmp_path):
    saved = sdprobe.open(run(tiny, AttentionMaps(), only(LatentRecorder(every=2), steps=[0])).save(tmp_path / "run"))
    by_name = saved["attention-maps"]
    assert saved[AttentionMaps] is by_name
    assert saved[AttentionMaps()] is by_name
    assert saved[LatentRecorder(every=2)].indices == [0]
    with pytest.raises(KeyError, match="is not a hook of this run"):
        saved[LatentRecorder(every=3)]
    with pytest.raises(KeyError, match=r"'checkpoints' is not a hook.*by name: 'attention-maps'"):
        saved["checkpoints"]
    with pytest.raises(AttributeError):
        _ = saved.model


class Norms(Observer):
    """Of somebody else: registered by nobody."""

    def start(self, run):
        self.norms = {}

    def noise_pred(self, x, step):
        self.norms[step.index] = x.norm()


def test_a_class_that_nobody_registered_is_asked_with_itself(tiny, tmp_path):
    live = run(tiny, norms := Norms())
    saved = sdprobe.open(live.save(tmp_path / "run"))
    assert saved.records == []
    assert saved[Norms].norms == live[norms].norms
    assert saved[norms].norms == live[norms].norms


def test_it_says_from_where_it_was_opened_without_a_model(folder):
    with pytest.raises(AttributeError, match=r"was opened from .*holds no model; it was made by StableDiffusion"):
        _ = sdprobe.open(folder).model


def test_it_is_read_also_from_another_working_directory(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    saved, runs = sdprobe.open(folder.name), sdprobe.Runs(".")
    monkeypatch.chdir(tmp_path.parent)
    assert saved.images
    assert runs[0].images


def test_a_part_of_it_has_the_hooks_of_the_whole(tiny, tmp_path):
    second = only(AttentionMaps(), rows=lambda row: row.image == 1)
    hooks = {"maps": second, "statistics": sdprobe.Statistics()}
    live = sdprobe.sample(tiny, ["a red circle", "a star"], hooks=hooks, steps=2, seed=0, progress=False)
    saved = sdprobe.open(live.save(tmp_path / "run"))
    for run_ in (live, saved):
        part = run_["maps"].run
        assert part.settings.images == 1
        assert part["statistics"] is part[sdprobe.Statistics] is run_["statistics"]
        assert len(part.records) == len(run_.records)
