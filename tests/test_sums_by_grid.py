"""Sums of words by grid are read as they were written, and anything else is refused."""

from __future__ import annotations

import pytest
import torch

from sdprobe.core.hook_records import HookRecords
from sdprobe.core.plain_values import to_plain
from sdprobe.observe.sums_by_grid import SumsByGrid

SUMS = {(2, 2): torch.rand(2, 3, 4), (1, 2, 3): torch.rand(2, 3, 6)}
NAMES = [["a", "red", 5], ["star"]]


def written(**other: object) -> HookRecords:
    """Records as hooks hold them, with something else in the place of an attribute."""
    tensors: dict[str, torch.Tensor] = {}
    own = {"sums": SUMS, "counts": dict.fromkeys(SUMS, 7), "changes": torch.rand(2, 3), **other}
    values = {name: to_plain(value, tensors, name) for name, value in own.items()}
    return HookRecords({"names": NAMES, **values}, tensors)


def test_what_was_written_is_read():
    records = written()
    read = SumsByGrid(records, images=2)
    assert read.names == NAMES
    assert list(found := read.sums("sums")) == list(SUMS)
    assert all(torch.equal(found[grid], x) for grid, x in SUMS.items())
    assert read.counts("counts") == {(2, 2): 7, (1, 2, 3): 7}
    assert torch.equal(read.of_words("changes"), records.tensors["changes"])


@pytest.mark.parametrize("names", [7, "ab", [["a"]], [["a"], 7], [["a"], [None]], [["a"], [True]], [["a"], [0.5]]])
def test_names_of_another_kind(names):
    with pytest.raises(ValueError, match=r"needed|images"):
        SumsByGrid(HookRecords({"names": names}), images=2)


@pytest.mark.parametrize(
    "sums",
    [
        7,
        [torch.rand(2, 3, 4)],
        {"2x2": torch.rand(2, 3, 4)},
        {(4,): torch.rand(2, 3, 4)},
        {(-2, -2): torch.rand(2, 3, 4)},
        {(2, True): torch.rand(2, 3, 2)},
        {(2, 2): 7},
        {(2, 2): torch.rand(2, 3, 5)},
        {(2, 2): torch.rand(2, 4, 4)},
        {(2, 2): torch.rand(1, 3, 4)},
        {(2, 2): torch.rand(2, 3, 4) > 0.5},
        {(2, 2): torch.rand(2, 3, 4).to(torch.float8_e4m3fn)},
    ],
)
def test_sums_of_another_kind(sums):
    with pytest.raises(ValueError, match=r"needed|grid"):
        SumsByGrid(written(sums=sums), images=2).sums("sums")


def test_counts_and_changes_of_another_kind():
    with pytest.raises(ValueError, match="whole number"):
        SumsByGrid(written(counts={(2, 2): "7"}), images=2).counts("counts")
    with pytest.raises(ValueError, match=r"changes has float32 \[3, 2\] where numbers \[2, 3\] are needed"):
        SumsByGrid(written(changes=torch.rand(3, 2)), images=2).of_words("changes")
