"""Dtypes and devices by name."""

from __future__ import annotations

import pytest
import torch

from sdprobe.core.torch_names import FLOATING, device_name, dtype_of, name_of


@pytest.mark.parametrize("dtype", FLOATING)
def test_a_dtype_is_found_by_itself_and_by_its_names(dtype):
    assert dtype_of(dtype) == dtype_of(name_of(dtype)) == dtype_of(str(dtype)) == dtype


@pytest.mark.parametrize("wrong", ["half", "int8", torch.int8, 16, None])
def test_another_dtype_is_told_the_choices(wrong):
    with pytest.raises(ValueError, match=r"dtype is one of torch\.float32, torch\.float16, .* or its name, not"):
        dtype_of(wrong)


def test_a_dtype_is_of_those_that_are_allowed():
    with pytest.raises(ValueError, match=r"one of torch\.float32, or its name, not 'float64'"):
        dtype_of("float64", (torch.float32,))


@pytest.mark.parametrize("given", ["cpu", "cuda", "cuda:1", torch.device("cuda:1")])
def test_a_device_need_not_be_there(given):
    assert device_name(given) == str(given)


@pytest.mark.parametrize("wrong", ["gpu", "", 1.5, None])
def test_what_is_no_device_is_told_what_is(wrong):
    with pytest.raises(ValueError, match="a device is 'cpu', 'cuda', 'cuda:1', 'mps' or another of torch, not"):
        device_name(wrong)
