"""`MeasuredSteps`: the numbers that a guidance measured of each image, in each step that it guided."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.plain_values import Tensors
from sdprobe.core.short_repr import said

DTYPES = (torch.float32, torch.float64)


class MeasuredSteps:
    """Numbers of each image, step by step. Until the run has ended they stay on its device, which so never waits.

    >>> import torch
    >>> measured = MeasuredSteps(("losses", "changes"))
    >>> measured.add(torch.tensor([0.5, 0.25]), torch.tensor([0.0, 1.0]))
    >>> measured["losses"]
    tensor([[0.5000, 0.2500]])

    Args:
        names: what is measured.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._kept: list[Float[Tensor, "names images"]] = []
        self._saved: Tensors | None = None
        self._steps = 0

    @classmethod
    def restored(cls, names: Sequence[str], tensors: Tensors, steps: int) -> MeasuredSteps:
        """Return those of so many steps of a saved run, each of which is read when it is asked for."""
        measured = cls(names)
        measured._saved, measured._steps = tensors, steps
        return measured

    def add(self, *values: Float[Tensor, " images"]) -> None:
        """Keep the numbers of a step, in the order of the names."""
        self._kept.append(torch.stack(values))

    def finish(self) -> None:
        """Move all to the CPU."""
        self._kept = list(torch.stack(self._kept).cpu()) if self._kept else []

    @property
    def tensors(self) -> Tensors:
        """All that was measured, by name."""
        return {name: self[name] for name in self.names}

    def __getitem__(self, name: str) -> Float[Tensor, "steps images"]:
        if self._saved is not None:
            first, x = self._saved[self.names[0]], self._saved[name]
            if x.ndim != 2 or len(x) != self._steps or x.shape != first.shape or x.dtype not in DTYPES:
                raise ValueError(f"the {name}, {said(x)}, are not those of {self._steps} steps")
            return x
        which = self.names.index(name)
        return torch.stack(self._kept)[:, which].cpu() if self._kept else torch.zeros(0, 0)
