"""`ExpectedSums`: what a recording of attention will hold, as arithmetic, before the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sdprobe.core.grid import Grid
from sdprobe.core.run import Role
from sdprobe.core.site import Site
from sdprobe.observe.attention_sums import Key
from sdprobe.observe.memory_budget import MemoryBudget, SumSize, counted, written

SUMMED = 4  # bytes of a number while it is added up, in float32


@dataclass(frozen=True)
class ExpectedSums:
    """The sums that a run will make.

    Args:
        sizes: the size of each sum, in the order of the steps.
        dtype: in which complete sums are kept.
    """

    sizes: Mapping[Key, SumSize]
    dtype: torch.dtype

    @property
    def held_bytes(self) -> int:
        """The bytes held after the run."""
        return self.dtype.itemsize * sum(self._by_step.values())

    @property
    def summed_bytes(self) -> int:
        """The bytes of the sums that are added to at one time: those of a step where steps are kept apart, else all."""
        return SUMMED * max(self._by_step.values(), default=0)

    @property
    def most_bytes(self) -> int:
        """The most bytes held at one time, complete or not."""
        complete = most = 0
        for numbers in self._by_step.values():
            most = max(most, complete + SUMMED * numbers)
            complete += self.dtype.itemsize * numbers
        return max(most, complete)

    @property
    def by_step(self) -> bool:
        """Whether steps are kept apart."""
        return any(key.step is not None for key in self.sizes)

    def refuse_over(self, budget: MemoryBudget, model: torch.device | str, kept: torch.device | str) -> None:
        """Raise ValueError, with the arithmetic, if this is more than may be held.

        Args:
            budget: what may be held.
            model: the device where sums are added up.
            kept: the device where complete sums are kept.
        """
        here, there = (torch.empty(0, device=device).device for device in (model, kept))  # "cuda" becomes "cuda:0"
        if here == there:
            budget.refuse(here, self.most_bytes, self.arithmetic)
        else:
            budget.refuse(here, self.summed_bytes, partial(self.arithmetic, kept=False))
            budget.refuse(there, self.held_bytes, partial(self.arithmetic, summed=False))

    def arithmetic(self, kept: bool = True, summed: bool = True) -> str:
        """Write how many bytes are held, factor by factor, a line for every size of sum.

        Args:
            kept: whether complete sums are held here.
            summed: whether sums are added up here.
        """
        if not kept:
            step = max(self._by_step, key=lambda step: self._by_step[step])
            lines = _factors({key: size for key, size in self.sizes.items() if key.step == step}, SUMMED)
            return _listed(lines, "for the step under way, in float32" if self.by_step else "in float32")
        if not self.by_step and summed:
            return _listed(_factors(self.sizes, SUMMED), "in float32, until the run ends" * (self.dtype.itemsize < 4))
        lines = _factors(self.sizes, self.dtype.itemsize)
        more = self.most_bytes - self.held_bytes if summed else 0
        return _listed(lines, f"and {written(more)} more for the step under way, in float32" * (more > 0))

    @property
    def _by_step(self) -> Counter[int | None]:
        found: Counter[int | None] = Counter()
        for key, size in self.sizes.items():
            found[key.step] += size.numbers
        return found


def expected_sums(
    sites: Iterable[tuple[Site, Grid]],
    shown: Mapping[Role, tuple[int, Sequence[int] | None]],
    images: int,
    apart: Collection[str],
    dtype: torch.dtype,
) -> ExpectedSums:
    """Return the sums that calls at sites will make.

    Args:
        sites: each call's site and grid.
        shown: of each role, the number of its prompts and which of their tokens are recorded; None for all.
        images: the number of images.
        apart: what is kept apart, of ``"step"``, ``"layer"``, ``"head"``.
        dtype: in which complete sums are kept.
    """
    return ExpectedSums(
        {
            Key.of_site(site, grid, role, reading, apart): SumSize(
                images, site.heads if "head" in apart else 1, grid, tokens
            )
            for site, grid in sites
            for role, (reading, columns) in shown.items()
            if role in site.step.roles and (tokens := len(site.tokens() if columns is None else columns))
        },
        dtype,
    )


def _factors(sizes: Mapping[Key, SumSize], bytes_each: int) -> list[str]:
    lines = []
    for size in dict.fromkeys(sizes.values()):
        keys = [key for key, own in sizes.items() if own == size]
        steps, layers = {key.step for key in keys}, {key.layer for key in keys}
        roles = {(key.role, key.reading) for key in keys}
        counts = {"step": len(steps - {None}), "layer": len(layers - {None}), "role": len(roles) * (len(roles) > 1)}
        before = [counted(count, name) for name, count in counts.items() if count]
        if len(keys) != len(steps) * len(layers) * len(roles):  # not every layer in every step
            before = [counted(len(keys), "sum")]
        total = len(keys) * size.numbers * bytes_each
        lines.append(f"{' × '.join([*before, str(size)])} × {bytes_each} bytes = {written(total)}")
    return lines


def _listed(lines: list[str], remark: str) -> str:
    return "\n".join(f"  {line}" for line in [*lines, *([remark] if remark else [])])
