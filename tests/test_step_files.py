"""`StepFiles`: a step's file is whole or is not there, and is read a tensor at a time."""

from __future__ import annotations

import pytest
import torch

from sdprobe.core.step_files import StepFiles


def test_what_was_written_is_read(tmp_path):
    files = StepFiles(tmp_path, rest="outside")
    x = torch.randn(3, 4).T  # not contiguous
    for index in (12000, 3, None):
        files.write(index, {"x": x, "y": x + 1}, {"said": str(index)})
    (tmp_path / "step-0004.txt").write_text("not one of them")
    (tmp_path / "step-3.safetensors").write_text("a second name for step 3")
    (tmp_path / "step-5.safetensors").write_text("not the name of step 5")
    (tmp_path / "step-0009.safetensors").mkdir()
    assert files.indices == [3, 12000]
    assert [files.has(index) for index in (3, 4, None)] == [True, False, True]
    with files.open(3) as file:
        assert torch.equal(file.get_tensor("y"), x + 1)
        assert file.metadata() == {"said": "3"}
    files.write(3, {"x": x * 2})
    assert torch.equal(files.open(3).get_tensor("x"), x * 2)


def test_a_file_that_is_not_whole_is_refused(tmp_path):
    files = StepFiles(tmp_path, rest="outside")
    files.write(0, {"x": torch.zeros(8)})
    whole = files.path(0).read_bytes()
    files.path(0).write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"step-0000.safetensors' cannot be read as safetensors"):
        files.open(0)
    with pytest.raises(ValueError, match=r"step-0001.safetensors' cannot be read as safetensors"):
        files.open(1)
