"""`peak_bytes`: the most memory that was used so far."""

from __future__ import annotations

import sys

import torch


def peak_bytes(device: torch.device) -> int | None:
    """Return the peak memory in bytes: torch's on a GPU, else that of the process; None if it is not reported.

    >>> peak_bytes(torch.device("cpu")) > 1_000_000
    True
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
