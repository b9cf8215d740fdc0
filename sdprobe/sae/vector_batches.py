"""`VectorBatches`: batches of vectors from any dataset, in an order that the seed decides, from any batch on."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset


class VectorBatches:
    """Batches of vectors ``[batch, width]`` without an end, epoch after epoch.

    A tensor, and a dataset with a length, are put in another random order in every epoch; what is left of an epoch
    that is no whole batch is not used. An iterable dataset has its own order, which must be the same whenever it is
    iterated again; one with a method ``epoch``, as `ActivationDataset` has, is asked for ``dataset.epoch(number)``.

    >>> import torch
    >>> numbers = torch.arange(6.0).unsqueeze(1)
    >>> batches = VectorBatches(numbers, batch=2, seed=0)
    >>> first = list(itertools.islice(batches.after(0), 4))
    >>> torch.equal(first[3], next(batches.after(3))), sorted(torch.cat(first[:3]).flatten().tolist())
    (True, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])

    Args:
        vectors: ``[samples, width]``, or a dataset that yields ``[width]``; an iterable one also ``[vectors, width]``.
        batch: vectors in a batch.
        seed: the seed of the order.

    Raises:
        ValueError: for a batch of less than 1, and for fewer vectors than a batch.
    """

    def __init__(self, vectors: Shaped[Tensor, "samples width"] | Dataset[Any], batch: int, seed: int) -> None:
        if batch < 1:
            raise ValueError(f"batch must be 1 or more, not {batch}")
        self.vectors, self.batch, self.seed = vectors, batch, seed
        if isinstance(vectors, Tensor) and (vectors.ndim != 2 or not vectors.is_floating_point()):
            raise ValueError(f"the vectors are [samples, width] of a floating dtype, not {list(vectors.shape)}")
        if not isinstance(vectors, IterableDataset) and self._count() < batch:
            raise ValueError(f"there are {self._count()} vectors, fewer than a batch of {batch}: give a smaller batch=")

    def after(self, done: int) -> Iterator[Float[Tensor, "batch width"]]:
        """Return the batches from number ``done`` on, counted from 0."""
        if isinstance(self.vectors, IterableDataset):
            return itertools.islice(self._iterated(self.vectors), done, None)
        return self._shuffled(done)

    def digest(self) -> str:
        """Return a digest of the vectors: of all of a tensor's; of a dataset, of its length and its first batch."""
        if isinstance(self.vectors, Tensor):
            return digest(self.vectors)
        length = "" if isinstance(self.vectors, IterableDataset) else f"{self._count()} "
        return length + digest(next(self.after(0)))

    def _shuffled(self, done: int) -> Iterator[Float[Tensor, "batch width"]]:
        per_epoch = self._count() // self.batch
        for epoch in itertools.count(done // per_epoch):
            random = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self._count(), generator=random)
            first = done % per_epoch if epoch == done // per_epoch else 0
            for k in range(first, per_epoch):
                yield self._taken(order[k * self.batch : (k + 1) * self.batch])

    def _iterated(self, vectors: IterableDataset[Any]) -> Iterator[Float[Tensor, "batch width"]]:
        of_epoch = getattr(vectors, "epoch", None)
        for epoch in itertools.count():
            found, held = 0, torch.empty(0)
            for part in map(_part, of_epoch(epoch) if callable(of_epoch) else vectors):
                held = torch.cat([held, part]) if len(held) else part
                while len(held) >= self.batch:
                    found += 1
                    yield held[: self.batch]
                    held = held[self.batch :]
            if not found:
                raise ValueError(f"an epoch has fewer vectors than a batch of {self.batch}: give a smaller batch=")

    def _taken(self, numbers: Tensor) -> Float[Tensor, "batch width"]:
        if isinstance(self.vectors, Tensor):
            return self.vectors[numbers.to(self.vectors.device)].float()
        many = getattr(self.vectors, "__getitems__", None)
        return _stacked(many(numbers.tolist()) if many else [self.vectors[number] for number in numbers.tolist()])

    def _count(self) -> int:
        return len(self.vectors)  # type: ignore[arg-type]


def digest(vectors: Shaped[Tensor, "vectors width"]) -> str:
    """Return the SHA-256 of vectors in float32."""
    made = hashlib.sha256(str(list(vectors.shape)).encode())
    for part in vectors.detach().split(65536):  # not to copy all of them at once
        made.update(part.float().cpu().contiguous().numpy())
    return made.hexdigest()


def _stacked(found: Iterable[Any]) -> Float[Tensor, "batch width"]:
    return torch.cat([_part(vector) for vector in found])


def _part(found: Any) -> Float[Tensor, "vectors width"]:
    """Return what a dataset yields, one vector or several, as several."""
    if not isinstance(found, Tensor) or found.ndim not in (1, 2):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"the dataset must yield vectors [width], or several [vectors, width], and it yields {what}")
    return found.float().reshape(-1, found.shape[-1])
