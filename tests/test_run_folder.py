"""The folder of a run: what is written is read back, and a folder is given to one writer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdprobe.runs.saved.run_folder import CLAIM, FORMAT, RunFolder

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(content=st.dictionaries(st.text(), plain, max_size=4))
def test_json_comes_back(tmp_path_factory, content):
    folder = RunFolder(tmp_path_factory.mktemp("json"))
    folder.write_json("prompts.json", content)
    assert folder.read_json("prompts.json") == content


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, torch.ones(1)])
def test_what_json_cannot_hold_is_not_written(tmp_path, value):
    with pytest.raises((TypeError, ValueError)):
        RunFolder(tmp_path).write_json("run.json", {"format": FORMAT, "value": value})
    assert not list(tmp_path.iterdir())


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_back(tmp_path, dtype):
    whole = torch.arange(24).reshape(2, 3, 4).to(dtype)
    tensors = {"whole": whole, "part": whole[1], "turned": whole.mT, "none": whole[:0], "one": whole[0, 0, 1]}
    tensors["again"] = whole
    folder = RunFolder(tmp_path)
    found = folder.tensors("hooks/00", folder.write_tensors("hooks/00", tensors))
    assert list(found) == list(tensors)
    for name, x in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], x)


def test_numbers_that_torch_would_conjugate_or_negate_when_they_are_read(tmp_path):
    x = torch.tensor([1 + 2j, 3 - 4j])
    tensors = {"conjugate": x.conj(), "negative": torch._neg_view(torch.ones(2)), "imaginary": x.conj().imag}
    folder = RunFolder(tmp_path)
    found = folder.tensors(".", folder.write_tensors(".", tensors))
    assert {name: own.tolist() for name, own in found.items()} == {name: own.tolist() for name, own in tensors.items()}


def test_writing_to_what_was_read_changes_no_file(tmp_path):
    folder = RunFolder(tmp_path)
    found = folder.tensors(".", folder.write_tensors(".", {"x": torch.ones(3)}))
    found["x"].zero_()
    assert found["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_images_come_back(tmp_path, mode):
    random = np.random.default_rng(0)
    shape = (5, 7) if mode == "L" else (5, 7, len(mode))
    image = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
    folder = RunFolder(tmp_path)
    folder.write_image("images/0000.png", image)
    found = folder.read_image("images/0000.png")
    assert found == image
    assert type(found) is Image.Image


def test_a_folder_is_given_to_one_writer(tmp_path):
    with RunFolder.begun(tmp_path / "a" / "run") as folder:
        with pytest.raises(ValueError, match="something in it"), RunFolder.begun(folder.path):
            pass
        assert (folder.path / CLAIM).is_dir()
        folder.write_json("run.json", {})
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]


def test_a_writer_that_fails_at_once_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder.begun(tmp_path / "a" / "run"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_what_another_process_left_when_it_was_killed_is_not_written_over(tmp_path):
    (tmp_path / CLAIM).mkdir()
    with pytest.raises(ValueError, match="something in it"), RunFolder.begun(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [CLAIM]
