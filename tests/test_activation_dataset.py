"""`ActivationDataset`: every vector once in each epoch, in an order that can be repeated, in little memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sdprobe.core.activations.folder import ActivationFolder
from sdprobe.core.activations.record import ActivationForm, ActivationKey, HeldActivations, Kept, RowLabel
from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.observe.activation_dataset import ActivationDataset

KEY = ActivationKey("mid_block")
ROWS = (RowLabel(0, "uncond", ""), RowLabel(0, "cond", "a"), RowLabel(1, "cond", "b"))


def records(count=2, steps=3, folder=None):
    """Records whose vectors are all different: the first channel is a number of its own."""
    made, number = [], 0
    for k in range(count):
        record = HeldActivations() if folder is None else ActivationFolder.begun(folder / str(k), {})
        for step in range(steps):
            shape = (3, 2, 2, 3 + step)  # not the same in all steps
            size = 3 * shape[2] * shape[3]
            numbers = torch.arange(number, number + size).view(3, 1, *shape[2:]).float()
            number += size
            form = ActivationForm(("rows", "channels", "h", "w"), ROWS, shape[2:])
            record.write(step, {KEY: Kept(CpuCopy(torch.cat([numbers, -numbers], 1)), form)})
        made.append(record)
    return made, number


def numbers(dataset):
    return [int(vector[0]) for vector in dataset]


@given(st.integers(1, 200), st.integers(0, 5), st.integers(0, 2), st.sampled_from([None, 1, 7, 1000]))
def test_every_vector_once_in_each_epoch(chunk, seed, epoch, batch):
    made, total = records()
    dataset = ActivationDataset(made, "mid_block", chunk=chunk, seed=seed, batch=batch).epoch(epoch)
    found = torch.cat(list(dataset)) if batch else torch.stack(list(dataset))
    assert dataset.count == total
    assert found.shape == (total, dataset.width)
    assert sorted(found[:, 0].tolist()) == list(range(total))
    assert torch.equal(found[:, 1], -found[:, 0])
    if batch:
        assert {len(own) for own in list(dataset)[:-1]} <= {batch}


def test_the_order_follows_from_the_seed_and_the_epoch():
    made, total = records()
    dataset = ActivationDataset(made, "mid_block", chunk=40)
    orders = [
        tuple(numbers(ActivationDataset(made, "mid_block", chunk=40, seed=seed).epoch(epoch)))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    assert len({*orders, tuple(range(total))}) == 7
    assert tuple(numbers(dataset)) == tuple(numbers(dataset)) == orders[0]
    assert tuple(numbers(dataset.epoch(2))) == orders[2]
    assert numbers(ActivationDataset(made, "mid_block", chunk=40, shuffle=False)) == list(range(total))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_divide_the_vectors_of_folders(tmp_path, workers):
    made, total = records(folder=tmp_path)
    dataset = ActivationDataset([record.folder for record in made], "mid_block", chunk=20, batch=8)
    for epoch in range(2):
        found = torch.cat(list(DataLoader(dataset.epoch(epoch), batch_size=None, num_workers=workers)))
        assert sorted(found[:, 0].tolist()) == list(range(total))


def test_folders_and_memory_give_the_same(tmp_path):
    held, _ = records()
    on_disk, _ = records(folder=tmp_path)
    assert numbers(ActivationDataset(held, "mid_block")) == numbers(ActivationDataset(on_disk, "mid_block"))


def test_chosen_steps_and_rows():
    made, _ = records(count=1)
    found = numbers(ActivationDataset(made, "mid_block", rows="cond", steps=[1], shuffle=False))
    assert found == made[0].at(1, KEY)[1:, 0].flatten().int().tolist()
    found = numbers(ActivationDataset(made, "mid_block", rows=[1], shuffle=False))
    assert found == [int(n) for step in range(3) for n in made[0].at(step, KEY)[2, 0].flatten()]


def test_one_source_and_one_step(tmp_path):
    made, _ = records(count=1, folder=tmp_path)
    expected = numbers(ActivationDataset(made, "mid_block", steps=[1]))
    for source in (made[0], made[0].folder, str(made[0].folder)):
        assert numbers(ActivationDataset(source, "mid_block", steps=1)) == expected


def test_one_call_of_a_module_that_runs_several_times():
    record, form = HeldActivations(), ActivationForm(("rows", "width"), ROWS)
    calls = {KEY._replace(call=k): Kept(CpuCopy(torch.full((3, 2), float(k))), form) for k in range(3)}
    record.write(0, calls)
    assert numbers(ActivationDataset(record, "mid_block", call=1)) == [1, 1, 1]
    with pytest.raises(KeyError, match="'mid_block' has several tensors: say call="):
        ActivationDataset(record, "mid_block")


def test_no_more_is_read_than_a_chunk(tmp_path, monkeypatch):
    """While the vectors of a chunk are given, nothing of another was read."""
    made, total = records(count=4, folder=tmp_path)
    dataset = ActivationDataset(made, "mid_block", chunk=30, batch=5)
    read, given_out = 0, 0
    reading = ActivationDataset._read

    def counted(self, entry):
        nonlocal read
        found = reading(self, entry)
        read += len(found)
        return found

    monkeypatch.setattr(ActivationDataset, "_read", counted)
    for batch in dataset:
        given_out += len(batch)
        assert read <= given_out + 30
    assert given_out == read == total


def test_errors():
    made, _ = records(count=1)
    with pytest.raises(KeyError, match="'up_block' was not kept; kept: mid_block"):
        ActivationDataset(made, "up_block")
    with pytest.raises(
        ValueError, match=r"no vector of 'mid_block' is left: of 1 records, with steps=\[9\], rows=None"
    ):
        ActivationDataset(made, "mid_block", steps=[9])
    with pytest.raises(ValueError, match="chunk and batch are numbers of vectors, 1 or more, not 0 and None"):
        ActivationDataset(made, "mid_block", chunk=0)
    other = HeldActivations()
    other.write(0, {KEY: Kept(CpuCopy(torch.zeros(3, 8)), ActivationForm(("rows", "width"), ROWS))})
    with pytest.raises(ValueError, match=r"different numbers of channels: \[2, 8\]"):
        ActivationDataset([*made, other], "mid_block")
