"""`HookRecords`: what a hook recorded in a run, as files hold it; `KeepsRecords`: how a hook gives it and takes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from torch import Tensor

from sdprobe.core.plain_values import Tensors, from_plain, to_plain
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr

K = TypeVar("K")
P = TypeVar("P")
SETTINGS = ("modules", "kinds", "sides", "streams", "strict", "needs_grad")
"""The attributes that say where a hook acts. It may set them in a run."""


@dataclass(frozen=True, eq=False)
class HookRecords:
    """What a hook recorded in a run, as files hold it.

    Args:
        values: what JSON can hold: None, texts, finite numbers, and lists and dictionaries with texts as keys.
        tensors: tensors by name. In a saved run each is read when it is asked for, and only then.
        left_out: what could not be written, with the reason.
    """

    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    tensors: Tensors = field(default_factory=lambda: MappingProxyType({}))
    left_out: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class TensorsByKey(Mapping[K, Tensor], Generic[K, P]):
    """Tensors by key, each of which is read when it is asked for.

    >>> import torch
    >>> records = HookRecords(tensors={"0": torch.ones(2)})
    >>> tensors = TensorsByKey({("cond", 3): "0"}, records.tensors.__getitem__)
    >>> tensors["cond", 3]
    tensor([1., 1.])

    Args:
        places: where each key's tensor is.
        read: returns the tensor at a place.
    """

    def __init__(self, places: Mapping[K, P], read: Callable[[P], Tensor]) -> None:
        self._places, self._read = places, read

    def __getitem__(self, key: K) -> Tensor:
        return self._read(self._places[key])

    def __iter__(self) -> Iterator[K]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class KeepsRecords:
    """Base of all hooks: their records can be saved with a run, and restored from a saved one."""

    def records(self) -> HookRecords:
        """Return what this run's copy of the hook recorded, for `Run.save`.

        Unless a hook defines it otherwise, these are its public attributes other than its arguments, and where it
        acted: numbers, texts, tensors, arrays and images, and lists, tuples, sets and dictionaries of them. Attributes
        whose names begin with an underscore are not saved.

        >>> import sdprobe
        >>> class Norms(sdprobe.Observer):
        ...     def start(self, run):
        ...         self.norms = {}
        ...     def noise_pred(self, x, step):
        ...         self.norms[step.index] = x.norm().item()
        >>> norms, settings = Norms(), {"steps": 2, "seed": 0, "progress": False}
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[norms], **settings)
        >>> run[norms].records().values
        {'norms': {'$dict': [[0, ...], [1, ...]]}}
        """
        tensors: dict[str, Any] = {}
        values, left_out = {}, {}
        arguments = {*inspect.signature(type(self)).parameters, "brings"} - {*SETTINGS}
        for name, value in vars(self).items():
            if name.startswith("_") or name in arguments:
                continue
            try:
                values[name] = {"$run": None} if isinstance(value, Run) else to_plain(value, tensors, name)
            except TypeError as error:
                left_out[name] = str(error)
        return HookRecords(values, tensors, left_out)

    def restore(self, records: HookRecords, run: Run) -> None:
        """Take the place of the copy of this hook that recorded ``records``, in a saved run.

        After this, all that can be asked of that copy can be asked of this one. An observer is made with its arguments
        before; a transform, and an observer whose arguments no file can hold, without a call of ``__init__``: it has
        the arguments that were written as attributes.

        Args:
            records: what `records` returned; a tensor is read when it is asked for.
            run: the run; for a hook that was limited to some images, the run of these.

        Raises ValueError for records that are not those of this hook.
        """
        for name, value in records.values.items():
            if name.startswith("_"):
                raise ValueError(f"{short_repr(name)} is no public attribute")
            setattr(self, name, run if value == {"$run": None} else from_plain(value, records.tensors))
