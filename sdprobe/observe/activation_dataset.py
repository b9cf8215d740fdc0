"""`ActivationDataset`: the vectors of one module from many runs, shuffled, with little of them in memory at once."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from sdprobe.core.activations.flat import channels_last
from sdprobe.core.activations.folder import ActivationFolder
from sdprobe.core.activations.record import ActivationKey, ActivationRecord
from sdprobe.core.activations.source import Source, records_of
from sdprobe.core.limits.limited_hook import Limit, Rows


class Entry(NamedTuple):
    """One row of one tensor of one step: what is read at once."""

    record: int
    step: int | None
    row: int
    vectors: int


@dataclass(frozen=True)
class Recorded:
    """A record, or the folder of one, and a key in it.

    A folder is opened anew for each entry, so that what was read of it is not kept.
    """

    source: ActivationRecord | Path
    key: ActivationKey

    @property
    def record(self) -> ActivationRecord:
        """The record."""
        return ActivationRecord.open(self.source) if isinstance(self.source, Path) else self.source


class ActivationDataset(IterableDataset[Tensor]):
    """The vectors of one module, of all places, rows and steps of many runs: a data set of ``torch.utils.data``.

    In each epoch every vector comes exactly once, in an order that follows from the seed and the number of the epoch.
    The order is random within chunks: rows of random records and steps are read until a chunk is full, its vectors are
    shuffled, and the next chunk is read. So no more is in memory than one chunk, and one for each worker of a
    `torch.utils.data.DataLoader`; workers divide the chunks among them.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "guidance_scale": 5.0, "progress": False}
    >>> runs = [
    ...     sdprobe.sample(model, "a red circle", hooks=[sdprobe.Activations("mid_block")], seed=seed, **settings)
    ...     for seed in range(2)
    ... ]
    >>> dataset = ActivationDataset(runs, "mid_block", rows="cond", batch=40)
    >>> dataset, [list(batch.shape) for batch in dataset]
    (ActivationDataset(96 vectors of width 96 from 2 records), [[40, 96], [40, 96], [16, 96]])
    >>> for epoch in range(2):
    ...     for batch in torch.utils.data.DataLoader(dataset.epoch(epoch), batch_size=None):
    ...         pass

    Args:
        records: one or more `ActivationRecord` objects or their folders, or runs with one `Activations`.
        name: the module's name.
        stream: the stream of a module with several tensors; None if only one was kept.
        side: ``"output"`` or ``"input"``; None if only one was kept.
        call: which call of a module that runs several times in a step; None if only one was kept.
        steps: only this step, or these; None for all. What is outside of the steps comes only with None.
        rows: a role, image numbers, or a function of the `RowLabel`; None for all.
        batch: give tensors ``[batch, width]``, the last one of each worker smaller; None for single vectors
            ``[width]``.
        chunk: how many vectors are in memory at once; one row of a tensor at the least.
        shuffle: False for the order of the records, steps, rows and places.
        seed: of the order.
        dtype: the dtype of the vectors; None keeps that of the records.

    Attributes:
        count: the number of vectors.
        width: the number of channels.

    Raises:
        KeyError: for a record in which the module was not kept, or in several tensors.
        ValueError: if nothing is left, or the records differ in the number of channels.
    """

    def __init__(
        self,
        records: Source | Sequence[Source],
        name: str | ActivationKey,
        *,
        stream: str | None = None,
        side: str | None = None,
        call: int | None = None,
        steps: int | Container[int] | None = None,
        rows: Rows | None = None,
        batch: int | None = None,
        chunk: int = 2**16,
        shuffle: bool = True,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        if chunk < 1 or (batch is not None and batch < 1):
            raise ValueError(f"chunk and batch are numbers of vectors, 1 or more, not {chunk} and {batch}")
        limit, wanted = Limit.of(rows=rows), (steps,) if isinstance(steps, int) else steps
        self.batch, self.chunk, self.shuffle, self.seed, self.dtype = batch, chunk, shuffle, seed, dtype
        self._epoch = 0
        self._records: list[Recorded] = []
        self._entries: list[Entry] = []
        widths = set[int]()
        for number, record in enumerate(records_of(records)):
            key = record.key_of(name, stream=stream, side=side, call=call)
            self._records.append(Recorded(record.folder if isinstance(record, ActivationFolder) else record, key))
            for index in record.indices_of(key):
                if wanted is not None and index not in wanted:
                    continue
                form = record.form_of(index, key)
                chosen = [k for k, label in enumerate(form.rows) if limit.includes_row(label)]  # type: ignore[arg-type]
                if chosen:
                    shape = torch.empty(record.shape_of(index, key), device="meta")
                    _, places, width = channels_last(shape, form.axes).shape
                    widths.add(width)
                    self._entries += [Entry(number, index, k, places) for k in chosen]
        if not self._entries:
            raise ValueError(f"no vector of {name!r} is left: of {len(self._records)} records, with {steps=}, {rows=}")
        if len(widths) > 1:
            raise ValueError(f"the records of {name!r} have different numbers of channels: {sorted(widths)}")
        self.width, self.count = widths.pop(), sum(entry.vectors for entry in self._entries)

    def epoch(self, number: int) -> ActivationDataset:
        """Return the same data set in the order of another epoch; itself, it is in the order of epoch 0."""
        other = copy.copy(self)
        other._epoch = number
        return other

    def __iter__(self) -> Iterator[Shaped[Tensor, ...]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        chunks = self._chunks()
        parts = (part for k in range(first, len(chunks), step) for part in self._parts(k, chunks[k]))
        return (vector for part in parts for vector in part) if self.batch is None else _of_size(self.batch, parts)

    def _chunks(self) -> list[list[Entry]]:
        """Divide the entries, in the order of the epoch, into chunks."""
        order = torch.randperm(len(self._entries), generator=self._generator(0)) if self.shuffle else None
        entries = self._entries if order is None else [self._entries[k] for k in order.tolist()]
        chunks: list[list[Entry]] = []
        size = 0
        for entry in entries:
            if not chunks or size + entry.vectors > self.chunk:
                chunks.append([])
                size = 0
            chunks[-1].append(entry)
            size += entry.vectors
        return chunks

    def _parts(self, number: int, entries: Sequence[Entry]) -> Iterator[Shaped[Tensor, "vectors width"]]:
        """Read a chunk; return its vectors, shuffled, some at a time."""
        total = sum(entry.vectors for entry in entries)
        held: Tensor | None = None
        begin = 0
        for entry in entries:
            found = self._read(entry)
            if held is None:  # filled part by part, so that no part is in memory twice
                held = torch.empty(total, self.width, dtype=self.dtype or found.dtype)
            held[begin : begin + len(found)] = found
            begin += len(found)
        assert held is not None
        order = torch.randperm(total, generator=self._generator(1 + number)) if self.shuffle else torch.arange(total)
        for at in order.split(self.batch or 1024):
            yield held[at]

    def _read(self, entry: Entry) -> Shaped[Tensor, "vectors width"]:
        of = self._records[entry.record]
        record = of.record
        x = record.at(entry.step, of.key, slice(entry.row, entry.row + 1))
        return channels_last(x, record.form_of(entry.step, of.key).axes)[0]

    def _generator(self, purpose: int) -> torch.Generator:
        state = np.random.SeedSequence([self.seed, self._epoch, purpose]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    def __repr__(self) -> str:
        many = f"{len(self._records)} record{'s' * (len(self._records) != 1)}"
        return f"ActivationDataset({self.count} vectors of width {self.width} from {many})"


def _of_size(size: int, parts: Iterable[Tensor]) -> Iterator[Shaped[Tensor, "batch width"]]:
    """Return parts of at most a size as parts of exactly that size, but for the last."""
    left: Tensor | None = None
    for part in parts:
        part = part if left is None else torch.cat([left, part])
        if len(part) < size:
            left = part
            continue
        yield part[:size]
        left = part[size:] if len(part) > size else None
    if left is not None:
        yield left
