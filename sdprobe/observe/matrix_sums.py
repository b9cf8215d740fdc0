"""`MatrixSums`: running sums of whole attention matrices, by the parts that look and that are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import BLOCK_BYTES, Attention
from sdprobe.core.grid import Grid, read_grid
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.core.plain_values import Tensors
from sdprobe.core.rows import read_role
from sdprobe.core.run import Role
from sdprobe.core.short_repr import said, short_repr
from sdprobe.core.site import Site
from sdprobe.core.torch_names import FLOATING
from sdprobe.core.written_values import MOST_ENTRIES, count, line, listed, one_of
from sdprobe.observe.memory_budget import MemoryBudget, counted, written
from sdprobe.observe.prompt_readings import PromptReadings, ShownRows

Part = Literal["text", "image"]
Direction = tuple[Part, Part]
MatrixKeep = Literal["step", "layer"]

DIRECTIONS: Mapping[str, tuple[Direction, ...]] = {
    "joint": (("text", "image"), ("image", "text"), ("text", "text"), ("image", "image")),
    "cross": (("image", "text"),),
    "self": (("image", "image"),),
}
"""Which parts look at which, at each kind of site."""
EVERY = DIRECTIONS["joint"]


class MatrixKey(NamedTuple):
    """Identifies a sum; None where it runs over all steps, or over all layers; and the prompts, by number."""

    role: Role
    kind: str
    step: int | None
    layer: str | None
    grid: Grid
    reading: int
    from_: Part
    to: Part

    @classmethod
    def of_site(
        cls, site: Site, grid: Grid, role: Role, reading: int, parts: Direction, keep: Collection[str]
    ) -> MatrixKey:
        """The sum to which a call belongs."""
        step = site.step.index if "step" in keep else None
        return cls(role, site.kind, step, site.name if "layer" in keep else None, grid, reading, *parts)

    @classmethod
    def read(cls, found: Any, readings: int) -> MatrixKey:
        """The sum that a file names. Raises ValueError for anything else."""
        if not isinstance(found, list) or len(found) != 9:
            raise ValueError(f"{short_repr(found)} names no sum")
        role, kind, step, layer, grid, reading, from_, to, _ = found
        step, layer = None if step is None else count(step), None if layer is None else line(layer)
        of = one_of(kind, tuple(DIRECTIONS), "kind of attention")
        parts = (one_of(own, get_args(Part), "part") for own in (from_, to))
        return cls(read_role(role), of, step, layer, read_grid(grid), count(reading, readings - 1), *parts)


class MatrixSize(NamedTuple):
    """How many numbers a sum holds."""

    images: int
    looking: int
    looked_at: int
    parts: Direction

    @property
    def numbers(self) -> int:
        """Images × tokens or places that look × those that are looked at."""
        return self.images * self.looking * self.looked_at

    @classmethod
    def at(cls, site: Site, grid: Grid, images: int, parts: Direction) -> MatrixSize:
        """The size of a sum at a site."""
        texts = 0 if site.text is None else site.text.stop - site.text.start
        counts = {"image": prod(grid), "text": texts}
        return cls(images, counts[parts[0]], counts[parts[1]], parts)

    @classmethod
    def least(cls, key: MatrixKey, images: int, tokens: int) -> MatrixSize:
        """The size of a sum; of tokens, so many or more."""
        counts = {"image": prod(key.grid), "text": tokens}
        return cls(images, counts[key.from_], counts[key.to], (key.from_, key.to))

    def fits(self, x: Tensor) -> bool:
        """Whether a tensor has this size, but for more tokens, and more images."""
        if x.ndim != 3 or not x.numel() or len(x) < self.images:
            return False
        wanted = zip(x.shape[1:], self[1:3], self.parts, strict=True)
        return all(n == own or (part == "text" and n > own) for n, own, part in wanted)

    def __str__(self) -> str:
        nouns = {"image": "place", "text": "token"}
        looking, looked_at = (
            counted(n, nouns[p]) for n, p in zip((self.looking, self.looked_at), self.parts, strict=True)
        )
        return f"{counted(self.images, 'image')} × {looking} × {looked_at}"


class MatrixSums(Mapping[MatrixKey, Float[Tensor, "images from to"]]):
    """The sums of a run, in float32 on the model's device.

    Args:
        keep: what is kept apart, of ``"step"`` and ``"layer"``.
        budget: how much may be held.

    Attributes:
        counts: the number of calls in each sum.
    """

    def __init__(self, keep: Collection[str], budget: MemoryBudget) -> None:
        self.keep, self.budget = frozenset(keep), budget
        self.counts: Counter[MatrixKey] = Counter()
        self._sums: Mapping[MatrixKey, Tensor] = {}

    def record(self, attn: Attention, site: Site, grid: Grid, shown: ShownRows, wanted: Iterable[Direction]) -> None:
        """Add the attention of the rows of a role, in some directions. Raises ValueError for more than the budget."""
        assert isinstance(self._sums, dict)
        for parts in wanted:
            key = MatrixKey.of_site(site, grid, shown.role, shown.reading, parts, self.keep)
            if key not in self._sums:
                device, size = attn.query.device, MatrixSize.at(site, grid, shown.images, parts)
                self.budget.refuse_more(device, self.held_bytes, size, site)
                self._sums[key] = torch.zeros(size[:3], device=device)
            places = {"image": site.image, "text": site.text}
            add_mean_in_blocks(attn, self._sums[key], shown.rows, places[parts[0]], places[parts[1]])
            self.counts[key] += 1

    def records(self) -> HookRecords:
        """Return the sums as files hold them: each a tensor, in the order in which they were begun."""
        found = [[*key, self.counts[key]] for key in self]
        return HookRecords({"sums": found}, {str(i): self[key] for i, key in enumerate(self)})

    @classmethod
    def restored(cls, records: HookRecords, readings: PromptReadings, images: int) -> MatrixSums:
        """Return the sums of records. A sum is read when it is asked for.

        Args:
            records: what `records` returned.
            readings: the prompts of the sums.
            images: the number of images.

        Raises ValueError and KeyError for anything else; where a sum is read, also for one of another shape.
        """
        made = object.__new__(cls)
        made.counts, names = Counter(), {}
        for i, found in enumerate(listed(records.values["sums"], MOST_ENTRIES)):
            key = MatrixKey.read(found, len(readings.prompts))
            made.counts[key] = count(found[-1], MOST_ENTRIES)
            tokens = min(prompt.unpadded for prompt in readings.prompts[key.reading])
            names[key] = (str(i), MatrixSize.least(key, images, tokens))
        made._sums = TensorsByKey(names, _ReadMatrix(records.tensors))
        return made

    @property
    def held_bytes(self) -> int:
        """The size of all sums as they are now."""
        return sum(total.nbytes for total in self.values())

    def __getitem__(self, key: MatrixKey) -> Float[Tensor, "images from to"]:
        return self._sums[key]

    def __iter__(self) -> Iterator[MatrixKey]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)


class _ReadMatrix:
    """Reads a sum of a saved run. A class, and no function inside another, which no pickle can hold."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def __call__(self, place: tuple[str, MatrixSize]) -> Float[Tensor, "images from to"]:
        name, size = place
        if not size.fits(x := self.tensors[name]) or x.dtype not in FLOATING:
            raise ValueError(f"the sum {name}, {said(x)}, is none of {size}")
        return x


def add_mean_in_blocks(
    attn: Attention,
    total: Float[Tensor, "rows queries keys"],
    rows: slice | Sequence[int],
    queries: slice | None,
    keys: slice | None,
) -> None:
    """Add the mean over heads of the attention from some positions to others, without holding every head at once."""
    assert queries is not None
    assert keys is not None
    heads, axis = attn.query.shape[1], attn.key.shape[2]
    block = max(1, BLOCK_BYTES // (4 * len(total) * heads * axis))
    for first in range(0, total.shape[1], block):
        last = min(first + block, total.shape[1])
        own = slice(queries.start + first, queries.start + last)
        attn.add_mean_probs(total[:, first:last], rows, keys, own)


def refuse_over(budget: MemoryBudget, device: torch.device, sizes: Mapping[MatrixKey, MatrixSize]) -> None:
    """Raise ValueError, with the arithmetic, if sums of these sizes are more than may be held."""
    budget.refuse(device, 4 * sum(size.numbers for size in sizes.values()), lambda: _arithmetic(sizes))


def _arithmetic(sizes: Mapping[MatrixKey, MatrixSize]) -> str:
    """Write how many bytes are held, a line for every size of sum."""
    lines = []
    for size, times in Counter(sizes.values()).items():
        total = written(4 * times * size.numbers)
        before = f"{counted(times, 'sum')} × " if times > 1 else ""
        lines.append(f"  {'→'.join(size.parts)}: {before}{size} × 4 bytes = {total}")
    return "\n".join(lines)


def direction_of(given: Any) -> Direction:
    """Return a direction as a pair. Raises ValueError for what is none."""
    if not isinstance(given, (tuple, list)) or len(given) != 2 or tuple(given) not in EVERY:
        raise ValueError(f"a direction is a pair such as ('text', 'image'), of 'text' and 'image', not {given!r}")
    return (given[0], given[1])


def no_direction(parts: tuple[str, ...]) -> str:
    """Say why there is nothing of a direction in a model."""
    if parts[0] == "text":
        return (
            f"{'→'.join(parts)} is not recorded: the text does not look at the picture in this model, nor at itself "
            f"within the denoiser, where only places of the picture look. Its tokens look at each other in the text "
            f"encoder alone, which runs before"
        )
    return f"{'→'.join(parts)} is not recorded: no attention site that was asked for has it"
