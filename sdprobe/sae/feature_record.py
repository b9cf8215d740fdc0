"""`FeatureRecord`: the activations of features in a run, kept sparse: the strongest of each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdprobe.core.activations.form import read_name, written_name
from sdprobe.core.activations.record import ActivationKey, RowLabel
from sdprobe.core.cpu_copy import CpuCopy, settle
from sdprobe.core.grid import Grid, read_grid
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.short_repr import said
from sdprobe.core.torch_names import FLOATING
from sdprobe.core.written_values import MOST_ENTRIES, count, listed, text

MOST_FEATURES, MOST_PLACES = 10_000_000, 2**40


@dataclass(frozen=True)
class SavedCopy:
    """In the place of a `CpuCopy`: a tensor of a saved run, which is read when its value is asked for."""

    tensors: Mapping[str, Tensor]
    number: int
    what: Literal["values", "indices"]
    rows: int
    features: int
    grid: Grid | None
    image: slice

    @property
    def value(self) -> Tensor:
        values, indices = (self.tensors[f"{self.number}.{what}"] for what in ("values", "indices"))
        if not self._fits(values, indices):
            raise ValueError(f"{said(values)} and {said(indices)} are no features of {self.rows} rows and their places")
        return values if self.what == "values" else indices

    def _fits(self, values: Tensor, indices: Tensor) -> bool:
        if values.ndim != 3 or values.shape != indices.shape or len(values) != self.rows or not values.numel():
            return False
        if values.dtype not in FLOATING or indices.dtype != torch.int32:
            return False
        if self.grid is not None and len(range(values.shape[1])[self.image]) != prod(self.grid):
            return False
        return bool((indices >= 0).all() and (indices < self.features).all())


class SparseActivations(NamedTuple):
    """The features kept of one tensor: ``values`` and ``indices`` ``[rows, positions, kept]``, and where they are."""

    values: CpuCopy | SavedCopy
    indices: CpuCopy | SavedCopy
    rows: tuple[RowLabel, ...]
    grid: Grid | None
    image: slice


class FeatureActivity(NamedTuple):
    """How active a feature is: its mean activation over the places, and the share of places where it is above 0."""

    feature: int
    mean: float
    density: float


class FeatureRecord:
    """Activations of features by step and tensor.

    Args:
        features: how many features there are.

    Attributes:
        keys: the tensors that were read, in order: module, side and stream.
        indices: the steps kept, in order; None for what is outside of the steps.
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self._kept: dict[tuple[int | None, ActivationKey], list[SparseActivations]] = {}
        self._on_their_way: list[CpuCopy] = []

    def write(self, index: int | None, key: ActivationKey, read: SparseActivations) -> None:
        """Keep what was read of a tensor; further rows of the same step are put after those that are there."""
        self._on_their_way += [own for own in (read.values, read.indices) if isinstance(own, CpuCopy)]
        settle(self._on_their_way)
        self._on_their_way = [own for own in self._on_their_way if not own.arrived]
        self._kept.setdefault((index, key), []).append(read)

    def finish(self) -> None:
        """Wait for what is still on its way to the CPU."""
        for own in self._on_their_way:
            _ = own.value
        self._on_their_way = []

    def records(self) -> HookRecords:
        """Return the record as files hold it."""
        written: list[list[object]] = []
        tensors: dict[str, Tensor] = {}
        for (index, key), reads in self._kept.items():
            for read in reads:
                n, image = len(written), [read.image.start, read.image.stop]
                grid = None if read.grid is None else [*read.grid]
                written.append([index, written_name(key), [*map(list, read.rows)], grid, image])
                tensors |= {f"{n}.values": read.values.value, f"{n}.indices": read.indices.value}
        return HookRecords({"features": self.features, "read": written}, tensors)

    @classmethod
    def restored(cls, records: HookRecords) -> FeatureRecord:
        """Return the record that `records` wrote. A tensor is read when it is asked for."""
        made = cls(count(records.values["features"], MOST_FEATURES))
        for n, found in enumerate(listed(own, 5) for own in listed(records.values["read"], MOST_ENTRIES)):
            index, name, rows, grid, image = found
            labels = tuple(
                RowLabel(count(i), text(role), text(prompt)) for i, role, prompt in map(listed, listed(rows))
            )
            own = None if grid is None else read_grid(grid)
            within = slice(*(None if end is None else count(end, MOST_PLACES) for end in listed(image, 2)))
            placed = (len(labels), made.features, own, within)
            values = SavedCopy(records.tensors, n, "values", *placed)
            indices = SavedCopy(records.tensors, n, "indices", *placed)
            step = None if index is None else count(index)
            read = SparseActivations(values, indices, labels, own, within)
            made._kept.setdefault((step, read_name(name)), []).append(read)
        return made

    @property
    def keys(self) -> list[ActivationKey]:
        return list(dict.fromkeys(key for _, key in self._kept))

    @property
    def indices(self) -> list[int | None]:
        return list(dict.fromkeys(index for index, _ in self._kept))

    def key_of(self, name: str | None = None, *, stream: str | None = None) -> ActivationKey:
        """Return the one tensor of a module and stream. Raises KeyError, with the choices, for none or several."""
        found = [key for key in self.keys if name in (None, key.name) and stream in (None, key.stream)]
        if len(found) == 1:
            return found[0]
        asked = " ".join(part for part in (name, stream) if part) or "the features"
        there = ", ".join(f"{key.name} ({key.stream})" for key in (found or self.keys)[:12]) or "nothing"
        if found:
            raise KeyError(f"{asked} were read of several tensors: say name= and stream=, of {there}")
        raise KeyError(f"{asked} was not read; read: {there}")

    def rows_at(self, index: int | None, name: str | None = None, *, stream: str | None = None) -> tuple[RowLabel, ...]:
        """Return what each entry of `at` is."""
        return tuple(row for read in self._reads(index, self.key_of(name, stream=stream)) for row in read.rows)

    def at(
        self, index: int | None, name: str | None = None, *, stream: str | None = None
    ) -> Float[Tensor, "rows positions features"]:
        """Return the activations of every feature in one step; where they were not kept, 0.

        Raises KeyError for a step or module that was not read.
        """
        reads = self._reads(index, self.key_of(name, stream=stream))
        return torch.cat([self._dense(read, range(len(read.rows))) for read in reads])

    def map_of(
        self,
        feature: int,
        image: int = 0,
        step: int | None = None,
        *,
        name: str | None = None,
        stream: str | None = None,
        role: str = "cond",
    ) -> Float[Tensor, "h w"]:
        """Return the activations of a feature over an image; the mean over the steps if none is given.

        Raises:
            KeyError: for a step, module, image or role that was not read.
            ValueError: for a number that is no feature's, and a module whose positions do not form a grid.
        """
        self.check(feature)
        maps = []
        for read in self._chosen(step, name, stream):
            if read.grid is None:
                raise ValueError("the positions of this module do not form a grid, so they are no map")
            for row in self._rows(read, image, role):
                here = read.indices.value[row][read.image] == feature
                maps.append((read.values.value[row][read.image] * here).sum(-1).reshape(read.grid))
        return torch.stack(self._some(maps, image, role)).mean(0)

    def top(
        self,
        n: int = 10,
        image: int | None = None,
        step: int | None = None,
        *,
        name: str | None = None,
        stream: str | None = None,
        role: str = "cond",
    ) -> list[FeatureActivity]:
        """Return the ``n`` features of the largest mean activation; of one image, or one step, if given.

        Raises KeyError for a step, module, image or role that was not read.
        """
        sums, active, places = torch.zeros(self.features), torch.zeros(self.features), 0
        for read in self._chosen(step, name, stream):
            rows = self._rows(read, image, role)
            values, indices = read.values.value[rows].flatten().float(), read.indices.value[rows].flatten().long()
            sums.index_add_(0, indices, values)
            active.index_add_(0, indices, (values > 0).float())
            places += len(rows) * read.values.value.shape[1]
        self._some([places] * bool(places), image, role)
        order = sums.argsort(descending=True, stable=True)[: max(n, 0)].tolist()
        return [FeatureActivity(k, sums[k].item() / places, active[k].item() / places) for k in order if sums[k] > 0]

    def check(self, feature: int) -> None:
        """Raise ValueError for a number that is no feature's."""
        if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < self.features:
            raise ValueError(f"the features have the numbers 0 to {self.features - 1}, and {feature!r} is none of them")

    def _reads(self, index: int | None, key: ActivationKey) -> Sequence[SparseActivations]:
        if (index, key) not in self._kept:
            there = [own for own, other in self._kept if other == key]
            raise KeyError(f"step {index} of {key.name} was not read; read: {', '.join(map(str, there)) or 'nothing'}")
        return self._kept[index, key]

    def _chosen(self, step: int | None, name: str | None, stream: str | None) -> list[SparseActivations]:
        key = self.key_of(name, stream=stream)
        if step is not None:
            return [*self._reads(step, key)]
        return [read for (_, own), reads in self._kept.items() if own == key for read in reads]

    @staticmethod
    def _rows(read: SparseActivations, image: int | None, role: str) -> list[int]:
        return [i for i, row in enumerate(read.rows) if row.role == role and image in (None, row.image)]

    def _some(self, found: list[Tensor] | list[int], image: int | None, role: str) -> list[Tensor]:
        if not found:
            rows = [row for reads in self._kept.values() for read in reads for row in read.rows]
            images, roles = sorted({row.image for row in rows}), sorted({row.role for row in rows})
            raise KeyError(
                f"nothing was read of {f'image {image}' if image is not None else 'any image'} with the role {role!r}; "
                f"images: {', '.join(map(str, images))}; roles: {', '.join(roles)}"
            )
        return found  # type: ignore[return-value]

    def _dense(self, read: SparseActivations, rows: Sequence[int]) -> Float[Tensor, "rows positions features"]:
        values = read.values.value[list(rows)]
        indices: Int[Tensor, "rows positions kept"] = read.indices.value[list(rows)].long()
        return values.new_zeros(*values.shape[:2], self.features).scatter(-1, indices, values)

    def __repr__(self) -> str:
        return f"FeatureRecord({self.features} features, {len(self.indices)} steps of {len(self.keys)} tensors)"
