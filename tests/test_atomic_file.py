"""A file is there whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdprobe.files.atomic_file import make_folders, write_atomically


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_an_interrupted_writing_leaves_what_was_there(tmp_path, before, raised):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)

    def write():
        with write_atomically(path) as beside:
            beside.write_text("half")
            raise raised

    with pytest.raises(raised):
        write()
    assert [found.read_text() for found in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_file_is_replaced_only_in_the_end(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with write_atomically(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
        assert beside.suffix == path.suffix
    assert [found.name for found in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "new"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"), write_atomically(tmp_path / "none" / "file.txt"):
        pass


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="only Linux tells which file is open")
def test_a_folder_and_those_that_it_is_in_reach_the_disk(tmp_path, monkeypatch):
    reached, own = set(), os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda opened: reached.add(Path(f"/proc/self/fd/{opened}").resolve()) or own(opened)
    )
    make_folders(tmp_path / "run" / "hooks" / "00")
    assert reached == {tmp_path, tmp_path / "run", tmp_path / "run" / "hooks"}
    assert (tmp_path / "run" / "hooks" / "00").is_dir()
    make_folders(tmp_path / "run" / "hooks" / "00")  # which is there
    assert len(reached) == 3
