"""`CpuCopy`: a tensor on its way to CPU memory, for which nothing waits until it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor


class CpuCopy:
    """A copy of a tensor in CPU memory.

    From CUDA it is made while the device goes on with other work, from other devices once it is read.

    >>> import torch
    >>> copied = CpuCopy(torch.ones(2))
    >>> copied.arrived, copied.value
    (True, tensor([1., 1.]))

    Args:
        x: the tensor.
        dtype: the dtype of the copy; None keeps the tensor's own.
    """

    def __init__(self, x: Shaped[Tensor, ...], dtype: torch.dtype | None = None) -> None:
        there = "cpu" if x.is_cuda else x.device
        self._made = x.detach().to(there, dtype or x.dtype, non_blocking=x.is_cuda, copy=True)
        self._arrival: Any = None
        if x.is_cuda:
            self._arrival = torch.cuda.Event()
            self._arrival.record(torch.cuda.current_stream(x.device))

    @property
    def arrived(self) -> bool:
        """Whether the copy is made, so that reading it does not wait."""
        return self._made.device.type == "cpu" and (self._arrival is None or bool(self._arrival.query()))

    @property
    def value(self) -> Shaped[Tensor, ...]:
        """The copy; waits until it is made."""
        if self._arrival is not None:
            self._arrival.synchronize()
            # Such a copy is made into page-locked memory, which is scarce: keep it in ordinary memory.
            self._made, self._arrival = self._made.clone(), None
        self._made = self._made.cpu()
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": self.value, "_arrival": None}


def settle(copies: Iterable[CpuCopy]) -> None:
    """Move the copies that are made from page-locked to ordinary memory."""
    for copied in copies:
        if copied.arrived:
            _ = copied.value
