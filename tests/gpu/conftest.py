"""The device of these tests. They are marked ``gpu`` and run by ``make gpu``; ``--device cpu`` tries them on a CPU."""

from __future__ import annotations

import pytest
import torch

SINGLE = {"enabled": True, "allow_tf32": False}
"""cuDNN as it is, but for products of single precision: not rounded, so that a CPU can be a measure of them."""


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """What ``--device`` names: a CUDA device where nothing else is asked for."""
    asked = torch.device(request.config.getoption("--device"))
    if asked.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return asked


@pytest.fixture(scope="session")
def cuda(device) -> torch.device:
    """A CUDA device, for what no other device has."""
    if device.type != "cuda":
        pytest.skip("only a CUDA device has it")
    return device


@pytest.fixture
def single_precision():
    """Convolutions compute in full single precision, as a CPU does; for products of matrices that is the default."""
    with torch.backends.cudnn.flags(**SINGLE):
        yield
