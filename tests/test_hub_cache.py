"""A folder of the hub's cache: the snapshot in it that is meant."""

from __future__ import annotations

import shutil

import pytest
import torch

import sdprobe
from sdprobe.model.hub_cache import snapshot_of
from sdprobe.model.weights_hash import source_of, weights_hash
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pipeline in diffusers' format."""
    folder = tmp_path_factory.mktemp("saved")
    stable_diffusion(seed=3).save_pretrained(folder)
    return folder


def add_snapshot(cache, commit, saved):
    """Put a pipeline into a cache as the hub's client does: blobs, and a tree of links to them."""
    (cache / "blobs").mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(p for p in saved.rglob("*") if p.is_file())):
        blob, link = cache / "blobs" / f"{commit}{number}", cache / "snapshots" / commit / path.relative_to(saved)
        shutil.copy(path, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


def add_ref(cache, name, commit):
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / name).write_text(commit)


@pytest.fixture
def cache(tmp_path, saved):
    folder = tmp_path / "models--own--er"
    add_snapshot(folder, "abc", saved)
    return folder


def test_the_only_snapshot(cache, saved):
    model = sdprobe.load(cache)
    assert weights_hash(model.pipe) == weights_hash(sdprobe.load(saved).pipe)
    assert same_run(run(model), run(sdprobe.load(saved)))
    assert weights_hash(sdprobe.load(cache / "snapshots" / "abc").pipe) == weights_hash(model.pipe)


def test_the_one_that_main_names(cache, saved, tmp_path):
    stable_diffusion(seed=4).save_pretrained(tmp_path / "other")
    add_snapshot(cache, "def", tmp_path / "other")
    with pytest.raises(ValueError, match=r"no refs/main, and its snapshots are abc, def: load one of them"):
        sdprobe.load(cache)
    add_ref(cache, "main", "def\n")
    add_ref(cache, "old", "abc")
    assert weights_hash(sdprobe.load(cache).pipe) == weights_hash(sdprobe.load(tmp_path / "other").pipe)
    for revision in ("old", "abc"):
        assert snapshot_of(cache, revision) == cache / "snapshots" / "abc"
    assert weights_hash(sdprobe.load(cache, revision="old").pipe) == weights_hash(sdprobe.load(saved).pipe)


def test_a_snapshot_that_is_not_there(cache):
    add_ref(cache, "main", "def")
    with pytest.raises(FileNotFoundError, match=r"no snapshot def \(refs/main\); its snapshots are abc"):
        sdprobe.load(cache)
    with pytest.raises(FileNotFoundError, match=r"no snapshot v2 \(v2\); its snapshots are abc"):
        sdprobe.load(cache, revision="v2")
    (cache / "snapshots" / "abc").rename(cache / "gone")
    (cache / "refs" / "main").unlink()
    with pytest.raises(FileNotFoundError, match="it has no snapshot: the download is not complete"):
        sdprobe.load(cache)


def test_the_cache_of_several_models(cache):
    with pytest.raises(ValueError, match=r"cache of several models: load one of models--own--er in it"):
        sdprobe.load(cache.parent)


def test_any_other_folder_stays_as_it_is(saved):
    assert snapshot_of(saved) == saved


def test_a_hub_id_that_is_in_the_cache(cache):
    add_ref(cache, "main", "abc")
    model = sdprobe.load("own/er", cache_dir=cache.parent, local_files_only=True, dtype=torch.float16)
    assert source_of(model.pipe) == "own/er"
    assert model.denoiser.dtype == torch.float16
    assert weights_hash(model.pipe) == weights_hash(sdprobe.load(cache, dtype=torch.float16).pipe)
