"""A run is saved whole, to a folder of its own, or is refused and leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, Observer
from sdprobe.core.run import Run
from tests.forked import in_child
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="of POSIX")


@pytest.fixture(scope="module")
def live(tiny) -> Run:
    """A run with records."""
    return run(tiny, AttentionMaps(keep=("step", "layer", "head")), LatentRecorder(keep=("latents", "denoised")))


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_that_is_not_empty_is_refused(live, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="has something in it: every run is saved to a folder of its own"):
        live.save(tmp_path)
    assert listing(tmp_path) == ["mine.txt"]
    with pytest.raises(ValueError, match="is a file, and a run is saved to a folder"):
        live.save(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_run_is_not_saved_over_another(live, tmp_path):
    folder = live.save(tmp_path / "run")
    before = listing(folder)
    with pytest.raises(ValueError, match="something in it"):
        live.save(folder)
    with pytest.raises(ValueError, match="something in it"):
        sdprobe.open(folder).save(folder)
    assert listing(folder) == before


@pytest.mark.parametrize("name", ["ein größeres Bild", "赤い丸 🔴", "a.b/c d/..e", "-rf"])
def test_names_of_folders(live, tmp_path, name):
    folder = live.save(tmp_path / name)
    assert folder == tmp_path / name
    assert torch.equal(sdprobe.open(folder).latents, live.latents)
    assert not [path for path in listing(folder) if Path(path).name.startswith(".")]


def test_a_saved_run_is_saved_again(live, tmp_path):
    first = sdprobe.open(live.save(tmp_path / "first"))
    second = sdprobe.open(first.save(tmp_path / "second"))
    assert listing(second.folder) == listing(first.folder)
    for path in (path for path in first.folder.rglob("*") if path.is_file()):
        assert (second.folder / path.relative_to(first.folder)).read_bytes() == path.read_bytes()


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user")
def test_a_place_where_nothing_may_be_written(live, tmp_path):
    for above in [tmp_path, *tmp_path.parents][:4]:  # which another user may enter
        above.chmod(above.stat().st_mode | 0o055)
    said = in_child(lambda: os.setuid(65534) or str(live.save(tmp_path / "new" / "run")))
    assert said.startswith("NotWritten: [Errno 13] a run cannot be saved to ")
    assert listing(tmp_path) == []


@posix
@pytest.mark.parametrize("most", [100, 2_500, 5_000, 20_000])
def test_a_full_disk(live, tmp_path, most):
    """No file may grow larger: the first that is larger fails as on a full disk."""

    def save() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return str(live.save(tmp_path / "run"))

    assert "NotWritten" in (said := in_child(save)), said
    assert "cannot be written" in said
    assert not [path for path in listing(tmp_path) if Path(path).name.startswith(".")]
    if most == 100:
        assert listing(tmp_path) == []
        return
    with pytest.warns(UserWarning, match="not saved to its end"):
        saved = sdprobe.open(tmp_path / "run")
    assert saved.settings == live.settings
    if (saved.folder / "prompts.json").exists():
        assert saved.prompts == live.prompts
    with pytest.raises(ValueError, match="missing in"):
        saved["latents"]


def _save(run: Run, folder: Path, barrier, outcomes) -> None:
    barrier.wait()
    try:
        run.save(folder)
        outcomes.put("saved")
    except ValueError as error:
        outcomes.put(str(error))


@posix
@pytest.mark.parametrize("there", [True, False])
def test_two_processes_and_one_folder(live, tmp_path, there):
    context = multiprocessing.get_context("fork")
    for i in range(2):
        folder = tmp_path / str(i)
        if there:
            folder.mkdir()
        barrier, outcomes = context.Barrier(2), context.Queue()
        processes = [context.Process(target=_save, args=(live, folder, barrier, outcomes)) for _ in range(2)]
        for process in processes:
            process.start()
        found = sorted(outcomes.get(timeout=30) for _ in processes)
        for process in processes:
            process.join()
        assert found[0] == "saved" or found[1] == "saved"
        assert sum("every run is saved to a folder of its own" in own for own in found) == 1, found
        saved = sdprobe.open(folder)
        assert saved.complete
        assert torch.equal(saved.latents, live.latents)


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_usual_permissions(live, tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = live.save(tmp_path / "run")
        sdprobe.open(folder).save(tmp_path / "copy")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        usual = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == usual & ~umask, path


class Large(Observer):
    """Records more numbers than JSON is for."""

    def noise_pred(self, x, step):
        self.many = [0] * 1_100_000


class Gone(Observer):
    """Records what is not there any more when the run is saved."""

    def noise_pred(self, x, step):
        return

    def records(self):
        raise FileNotFoundError("the folder of the records was removed")


@pytest.mark.parametrize(("kind", "why"), [(Large, "1 MB|entries, and may have"), (Gone, "was removed")])
def test_records_that_cannot_be_saved_cost_no_others(tiny, tmp_path, kind, why):
    live = run(tiny, LatentRecorder(), kind(), LatentRecorder(every=2))
    with pytest.warns(UserWarning, match=f"were not all saved: .*({why})"):
        folder = live.save(tmp_path / "run")
    saved = sdprobe.open(folder)
    assert saved.complete
    assert saved[LatentRecorder(every=2)].indices == [0]
    with pytest.raises(KeyError, match="were not saved"):
        saved[kind]


def test_many_tensors_are_in_several_files(tiny, tmp_path):
    class Many(Observer):
        def noise_pred(self, x, step):
            self.found = dict.fromkeys(range(2_345), x[0, 0, 0, :1])

    folder = run(tiny, Many(), steps=1).save(tmp_path / "run")
    assert len([*(folder / "hooks/00").glob("*.safetensors")]) == 3


def test_an_image_that_is_too_large_to_be_read_is_not_written(live, tmp_path):
    whole = sdprobe.open(live.save(tmp_path / "run"))
    large = Run.__new__(Run)
    vars(large).update({**vars(live), "images": [Image.fromarray(np.zeros((7_100, 7_100), dtype=np.uint8))]})
    with pytest.raises(ValueError, match="larger than 50000000 pixels"):
        large.save(tmp_path / "large")
    assert not (tmp_path / "large").exists()
    assert whole.images == live.images


def test_an_attached_run_that_has_not_begun(tmp_path):
    with sdprobe.attach(stable_diffusion()) as result:
        pass
    with pytest.raises(ValueError, match="has not begun: call the pipeline first"):
        result.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()
