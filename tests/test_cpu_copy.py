"""Copies on their way to the CPU."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from sdprobe.core.cpu_copy import CpuCopy, settle


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.float32, torch.float64])
def test_it_is_what_a_plain_copy_is(dtype):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    copied = CpuCopy(x, dtype)
    expected = x.detach().to("cpu", dtype or x.dtype)
    assert copied.arrived
    for own in (copied, copy.deepcopy(copied), pickle.loads(pickle.dumps(copied))):
        assert torch.equal(own.value, expected)
        assert own.value.dtype == expected.dtype
        assert not own.value.requires_grad


def test_what_changes_later_is_not_in_it():
    x = torch.zeros(2)
    copied = CpuCopy(x)
    x += 1
    assert torch.equal(copied.value, torch.zeros(2))


def test_from_another_device_it_comes_when_it_is_read():
    copied = CpuCopy(torch.zeros(2, device="meta"))
    assert not copied.arrived
    settle([copied])  # waits for nothing that is not there
    with pytest.raises(NotImplementedError, match="meta"):
        _ = copied.value
