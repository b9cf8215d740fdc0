"""`MemoryBudget`: how many bytes a recording may hold, on each device; `SumSize`: the size of one sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple, Protocol, runtime_checkable

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.grid import Grid, said_grid
from sdprobe.core.site import Site

SHARE = 4  # the default budget is this part of what is free: a run beside it needs the rest
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class SumSize(NamedTuple):
    """How many numbers a sum holds."""

    images: int
    heads: int
    grid: Grid
    tokens: int

    @property
    def numbers(self) -> int:
        """Images × heads × positions × tokens."""
        return self.images * self.heads * prod(self.grid) * self.tokens

    def zeros(self, device: torch.device) -> Float[Tensor, "images heads positions tokens"]:
        """Return an empty sum in float32."""
        return torch.zeros(self.images, self.heads, prod(self.grid), self.tokens, device=device)

    def __str__(self) -> str:
        images, heads, tokens = (
            counted(self.images, "image"),
            counted(self.heads, "head"),
            counted(self.tokens, "token"),
        )
        positions = f"{counted(prod(self.grid), 'position')} ({said_grid(self.grid)})"
        return f"{images} × {f'{heads} × ' * (self.heads > 1)}{positions} × {tokens}"


@runtime_checkable
class Size(Protocol):
    """The size of a sum, of any kind."""

    @property
    def numbers(self) -> int: ...


class MemoryBudget:
    """How many bytes a recording may hold on each device.

    Args:
        hook: the repr of the hook that records.
        given: the bytes; None for a quarter of what is free on a device when it is first asked for.
        ways: arguments of the hook with which it holds less.
    """

    def __init__(self, hook: str, given: int | float | None, ways: Sequence[str]) -> None:
        self.hook, self.given, self.remedies = hook, given, f"Hold less, with {', '.join(ways)}"
        self._free: dict[torch.device, int] = {}

    def on(self, device: torch.device) -> int | float:
        """The bytes that may be held on a device."""
        return self.given if self.given is not None else self._free_on(device) // SHARE

    def refuse(self, device: torch.device, needed: int, arithmetic: Callable[[], str]) -> None:
        """Raise ValueError, with the arithmetic, if more would be held on a device than may be."""
        if needed > self.on(device):
            raise ValueError(
                f"{self.hook} would hold {written(needed)} on {device}, and {self._said(device)}:\n{arithmetic()}\n"
                f"{self.remedies}, or allow more: budget={needed}"
            )

    def refuse_more(self, device: torch.device, held: int, size: Size, site: Site) -> None:
        """Raise ValueError if one sum more, in float32, would be more on a device than may be held there."""
        new = 4 * size.numbers
        if held + new > self.on(device):
            raise ValueError(
                f"{self.hook} holds {written(held)} on {device} at step {site.step.index} of {site.step.total}, and "
                f"{self._said(device)}; {site.name} asks for another {size} × 4 bytes = {written(new)}. "
                f"{self.remedies}, or allow more with budget=..., in bytes"
            )

    def _said(self, device: torch.device) -> str:
        if self.given is not None:
            return f"its budget is {written(self.given)}"
        return f"its budget is a quarter of the {written(self._free_on(device))} that are free there"

    def _free_on(self, device: torch.device) -> int:
        if device not in self._free:
            self._free[device] = free_bytes(device)
        return self._free[device]


def free_bytes(device: torch.device) -> int:
    """How many bytes are free on a device: of a CUDA device its own memory, of any other the machine's.

    What torch has reserved on a CUDA device and does not use is free too.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(psutil.virtual_memory().available)


def written(count: int | float) -> str:
    """Return a number of bytes as a text.

    >>> written(504_627_200), written(800)
    ('504.6 MB', '800 bytes')
    """
    unit, name = next(((unit, name) for unit, name in UNITS if count >= unit), (1, "bytes"))
    return f"{count / unit:.1f} {name}" if unit > 1 else f"{count:.0f} {name}"


def counted(count: int, noun: str) -> str:
    """Return a number of things as a text.

    >>> counted(1, "image"), counted(2, "image")
    ('1 image', '2 images')
    """
    return f"{count} {noun}{'s' * (count != 1)}"
