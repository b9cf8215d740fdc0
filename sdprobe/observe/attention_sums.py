"""`AttentionSums`: running sums of attention probabilities, by role, step, layer, grid and prompt.

A sum is added up in float32 on the model's device. When nothing more can be added to it, it gets the dtype and the
device in which it is kept: after its step where steps are kept apart, else after the run. So half precision rounds
each number once, and a GPU is waited for between steps only. Added up in half precision, a map of the embedded model
over 50 steps changes by 0.9 % of its maximum in float16 and by 8 % in bfloat16; rounded once, by at most 0.04 %
and 0.4 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.grid import Grid, read_grid, said_grid
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.core.module_names import short_name
from sdprobe.core.plain_values import Tensors
from sdprobe.core.rows import read_role
from sdprobe.core.run import Role, as_slice
from sdprobe.core.short_repr import said, short_repr
from sdprobe.core.site import Site
from sdprobe.core.torch_names import FLOATING
from sdprobe.core.written_values import MOST_ENTRIES, count, line, listed, one_of, whole
from sdprobe.observe.memory_budget import MemoryBudget, SumSize
from sdprobe.observe.prompt_readings import PromptReadings, ShownRows

Keep = Literal["step", "layer", "head"]


class Key(NamedTuple):
    """Identifies a sum; None where it runs over all steps, or over all layers of a grid; and the prompts, by number."""

    role: Role
    step: int | None
    layer: str | None
    grid: Grid
    reading: int

    @classmethod
    def of_site(cls, site: Site, grid: Grid, role: Role, reading: int, apart: Iterable[str]) -> Key:
        """The sum to which a call belongs where these are kept apart, of ``"step"``, ``"layer"``, ``"head"``."""
        step = site.step.index if "step" in apart else None
        return cls(role, step, site.name if "layer" in apart else None, grid, reading)

    @classmethod
    def read(cls, written: Any, readings: int) -> Key:
        """The sum that a file names. Raises ValueError for anything else."""
        if not isinstance(written, list) or len(written) != 6:
            raise ValueError(f"{short_repr(written)} names no sum")
        of, step, layer, grid, reading, _ = written
        step, layer = None if step is None else count(step), None if layer is None else line(layer)
        return cls(read_role(of), step, layer, read_grid(grid), count(reading, readings - 1))


class AttentionSums(Mapping[Key, Float[Tensor, "images heads positions tokens"]]):
    """The sums of a run; a mapping, whose values are in ``dtype`` and on ``device`` once they are complete.

    Args:
        keep: what is kept apart on request.
        unasked_bytes: layers and heads are kept apart without request up to this size.
        budget: how much may be held.
        dtype: in which sums are kept.
        device: where sums are kept; None for the model's.

    Attributes:
        apart: what is kept apart now.
        counts: the number of calls in each sum.
    """

    def __init__(
        self,
        keep: Sequence[Keep],
        unasked_bytes: int | float,
        budget: MemoryBudget,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
    ) -> None:
        self.keep, self.unasked_bytes = frozenset(keep), unasked_bytes
        self.budget, self.dtype, self.device = budget, dtype, device
        self.apart: frozenset[str] = self.keep | {"layer", "head"}
        self.counts: Counter[Key] = Counter()
        self._sums: dict[Key, Float[Tensor, "images heads positions tokens"]] = {}
        self._held: Counter[torch.device] = Counter()
        self._step: int | None = None  # the step under way
        self._tokens: dict[tuple[int, int, int], slice | list[int]] = {}

    def record(self, attn: Attention, site: Site, grid: Grid, shown: ShownRows) -> None:
        """Add the attention of the image to the recorded tokens, for the rows of a role.

        Raises ValueError where that would hold more than the budget; sums per layer and head that nobody asked for are
        summed over first.
        """
        if "step" in self.apart and self._step != site.step.index:
            self._complete(self._under_way())
            self._step = site.step.index
        key = Key.of_site(site, grid, shown.role, shown.reading, self.apart)
        if key not in self._sums:
            count = len(site.tokens(shown.columns))
            size = SumSize(shown.images, site.heads if "head" in self.apart else 1, grid, count)
            if self.apart > self.keep and self.held_bytes + 4 * size.numbers > self.unasked_bytes:
                self._sum_over(self.apart - self.keep)
                return self.record(attn, site, grid, shown)
            device = attn.query.device
            self.budget.refuse_more(device, self._held[device], size, site)
            self._put(key, size.zeros(device))
        tokens = self._positions(site, shown)
        if "head" in self.apart:
            self._sums[key].add_(attn.probs(shown.rows, None, tokens, site.image))
        else:
            attn.add_mean_probs(self._sums[key][:, 0], shown.rows, tokens, site.image)
        self.counts[key] += 1
        return None

    def _positions(self, site: Site, shown: ShownRows) -> slice | list[int]:
        """The positions of the recorded tokens on the key axis; found once for all sites of one layout."""
        assert site.text is not None
        at = (shown.reading, site.text.start, site.text.stop)
        if at not in self._tokens:
            self._tokens[at] = as_slice(site.tokens(shown.columns))
        return self._tokens[at]

    def finish(self) -> None:
        """The run has ended: every sum is complete."""
        self._complete(self._under_way())

    def row_sums(self) -> Float[Tensor, " sums"]:
        """Return the smallest and the largest sum over the tokens, of the mean probabilities of each sum."""
        means = [total.float().sum(-1) / self.counts[key] for key, total in self.items()]
        return torch.stack([extreme for mean in means for extreme in (mean.min(), mean.max())])

    def records(self) -> HookRecords:
        """Return the sums as files hold them: each a tensor, in the order in which they were begun."""
        listed = [[*key, self.counts[key]] for key in self._sums]
        values = {"sums": listed, "apart": sorted(self.apart), "keep": sorted(self.keep), "bytes": self.held_bytes}
        return HookRecords(values, {str(i): total for i, total in enumerate(self._sums.values())})

    @classmethod
    def restored(cls, records: HookRecords, readings: PromptReadings) -> AttentionSums:
        """Return the sums of records. A sum is read when it is asked for.

        Args:
            records: what `records` returned.
            readings: the prompts of the sums.

        Raises ValueError and KeyError for anything else; where a sum is read, also for one of another shape.
        """
        values, made = records.values, object.__new__(cls)
        made.keep, made.apart = (
            frozenset(one_of(own, get_args(Keep), "name of what is kept apart") for own in listed(values[name]))
            for name in ("keep", "apart")
        )
        made.counts, names = Counter(), {}
        for i, written in enumerate(listed(values["sums"], MOST_ENTRIES)):
            key = Key.read(written, len(readings.prompts))
            made.counts[key], names[key] = count(written[-1], MOST_ENTRIES), str(i)

        read = _ReadSums(records.tensors, names, readings)
        made._sums = TensorsByKey({key: key for key in names}, read)  # type: ignore[assignment]
        made._held = Counter({torch.device("cpu"): whole(values["bytes"])})
        return made

    @property
    def held_bytes(self) -> int:
        """The size of all sums as they are now."""
        return self._held.total()

    def matching(
        self, role: Role, step: int | None = None, layer: str | None = None, head: int | None = None
    ) -> list[Key]:
        """Return the sums of a role, at this step, layer and head if given. Raises ValueError if there are none."""
        for name, value in (("step", step), ("layer", layer), ("head", head)):
            if value is not None and name not in self.keep:
                raise ValueError(f"{name}s were not kept apart: record with AttentionMaps(keep=({name!r},))")
        if not self:
            raise ValueError("nothing was recorded: no attention site that was asked for has been called")
        keys = [k for k in self if k.role == role and step in (None, k.step) and layer in (None, k.layer)]
        keys = [key for key in keys if head is None or 0 <= head < self[key].shape[1]]
        if not keys:
            heads = max(total.shape[1] for total in self.values())
            there = self.kept_apart()
            steps, layers = there["step"], short_repr(there["layer"])
            raise ValueError(
                f"nothing was recorded at step {step}, layer {layer}, head {head}; recorded: {len(steps)} steps "
                f"{short_repr(steps)}, {heads} heads, the layers {layers}"
            )
        return keys

    def kept_apart(self) -> dict[Keep, list[int | str]]:
        """Return the steps, the layers, and the heads that every sum has."""
        return {
            "step": sorted({key.step for key in self if key.step is not None}),
            "layer": list(dict.fromkeys(key.layer for key in self if key.layer is not None)),
            "head": list(range(min(total.shape[1] for total in self.values()))),
        }

    def _under_way(self) -> list[Key]:
        return [key for key in self._sums if key.step is None or key.step == self._step]

    def _complete(self, keys: Iterable[Key]) -> None:
        for key in keys:
            total = self._sums[key]
            self._put(key, total.to(self.device or total.device, self.dtype))

    def _put(self, key: Key, total: Float[Tensor, "images heads positions tokens"]) -> None:
        if (before := self._sums.get(key)) is not None:
            self._held[before.device] -= before.nbytes
        self._sums[key] = total
        self._held[total.device] += total.nbytes

    def _sum_over(self, names: Iterable[str]) -> None:
        held, counts, under_way = self._sums, self.counts, set(self._under_way())
        self.apart -= set(names)
        self._sums, self.counts, self._held = {}, Counter(), Counter()
        for key, kept in held.items():
            new = key._replace(layer=key.layer if "layer" in self.apart else None)
            total = kept.to(torch.float32)
            total = total if "head" in self.apart else total.mean(1, keepdim=True)
            self._put(new, self._sums[new] + total if new in self._sums else total)
            self.counts[new] += counts[key]
        steps = {key.step for key in under_way}
        self._complete([key for key in self._sums if key.step not in steps])

    def __getitem__(self, key: Key) -> Float[Tensor, "images heads positions tokens"]:
        return self._sums[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)


@dataclass(frozen=True)
class _ReadSums:
    """Reads a sum of a saved run. A class, and no function inside another, which no pickle can hold."""

    tensors: Tensors
    names: Mapping[Key, str]
    readings: PromptReadings

    def __call__(self, key: Key) -> Float[Tensor, "images heads positions tokens"]:
        columns, prompts = self.readings.columns[key.reading], self.readings.prompts[key.reading]
        tokens = min(prompt.unpadded for prompt in prompts) if columns is None else len(columns)
        name, places = self.names[key], prod(key.grid)
        x = self.tensors[name]
        size = x.shape[2:3] == (places,) and x.shape[0] >= len(prompts) and x.ndim == 4 and x.shape[3] >= tokens
        if not (size and x.numel() and x.dtype in FLOATING):
            raise ValueError(
                f"the sum {name}, {said(x)}, is none of {len(prompts)} images of {said_grid(key.grid)} places"
            )
        return x


def label_of(by: Keep, value: int | str) -> str:
    """Return a short title for a step, a layer or a head.

    >>> label_of("layer", "up_blocks.2.attentions.1.transformer_blocks.0.attn2"), label_of("head", 3)
    ('up 2.1', 'head 3')
    """
    return f"{by} {value}" if isinstance(value, int) else short_name(value)
