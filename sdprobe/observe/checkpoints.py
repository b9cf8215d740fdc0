"""`Checkpoints`: keep the states of a run, to resume it later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.hook import Observer
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.core.plain_values import Tensors
from sdprobe.core.run import Run, State
from sdprobe.core.short_repr import said, short_repr
from sdprobe.core.step import Step
from sdprobe.core.torch_names import device_name
from sdprobe.core.written_scheduler import WrittenScheduler, write_scheduler
from sdprobe.core.written_values import MOST_ENTRIES, count, flag, line, listed, mapping, text


class Checkpoints(Observer):
    """Keep the state of a run at each of its steps; `sdprobe.resume` continues from one.

    A state holds the latents, the scheduler with its memory of earlier steps, and the generator of the noise. They
    stay on the run's device. Use `sdprobe.only` to keep some steps only: ``only(Checkpoints(), steps={10, 20})``.

    >>> import sdprobe
    >>> checkpoints = sdprobe.Checkpoints()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[checkpoints], steps=4, seed=0, progress=False)
    >>> run[checkpoints].states[2]
    State(index=2)

    Attributes:
        states: (in a run) a `State` for each step kept, by step number. In a saved run a state is read when it is asked
            for, and its scheduler is a description that `sdprobe.resume` makes a scheduler of.
    """

    def start(self, run: Run) -> None:
        self.run = run
        self.states: dict[int, State] = {}

    def latents(self, x: Tensor, step: Step) -> None:
        # The step holds the latents from before the hooks of this step: hooks that change them will do so again.
        self.states[step.index] = step.state()

    def records(self) -> HookRecords:
        tensors: dict[str, Tensor] = {}
        return HookRecords({"states": [_written(state, tensors) for state in self.states.values()]}, tensors)

    def restore(self, records: HookRecords, run: Run) -> None:
        self.run = run
        written = {count(own["index"]): _checked(own) for own in map(mapping, listed(records.values["states"]))}
        self.states = SavedStates(written, records.tensors)  # type: ignore[assignment]


class SavedStates(Mapping[int, State]):
    """The states of a saved run; each is read when it is asked for."""

    def __init__(self, written: Mapping[int, Mapping[str, Any]], tensors: Tensors) -> None:
        self._written, self._tensors = written, tensors

    def __getitem__(self, index: int) -> State:
        own = self._written[index]
        generators = [_generator(device, self._tensors[name]) for device, name in own["generators"]]
        return State(
            index,
            _laid_out(self._tensors[f"{index}.latents"], own.get("axes")),
            WrittenScheduler(**own["scheduler"], tensors=self._of(index)),
            generators if own["one_each"] else generators[0],
        )

    def _of(self, index: int) -> Tensors:
        names = {name: name for name in self._tensors if name.startswith(f"{index}.scheduler.")}
        return TensorsByKey(names, self._tensors.__getitem__)

    def __iter__(self) -> Iterator[int]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)

    def __repr__(self) -> str:
        return f"SavedStates(of the steps {', '.join(map(str, self))})"


def _written(state: State, tensors: dict[str, Tensor]) -> dict[str, Any]:
    one_each = isinstance(state.generator, list)
    generators = state.generator if one_each else [state.generator]
    named = {f"{state.index}.generator.{i}": own for i, own in enumerate(generators)}
    tensors |= {name: own.get_state() for name, own in named.items()} | {f"{state.index}.latents": state.latents}
    return {
        "index": state.index,
        "generators": [[str(own.device), name] for name, own in named.items()],
        "one_each": one_each,
        "axes": _axes_in_memory(state.latents),
        "scheduler": write_scheduler(state.scheduler, tensors, f"{state.index}.scheduler"),
    }


def _axes_in_memory(x: Tensor) -> list[int]:
    """Return the axes of a tensor from the one with the largest steps in memory to that with the smallest."""
    return sorted(range(x.ndim), key=lambda axis: -x.stride()[axis])


def _laid_out(x: Tensor, axes: Any) -> Tensor:
    """Return a tensor with its axes in this order in memory, on which the last bits of a convolution depend.

    Folders written by earlier versions say nothing of it.
    """
    if axes is None:
        return x
    order = [count(axis, x.ndim - 1) for axis in listed(axes, x.ndim)]
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"{order} where an order of {x.ndim} axes is needed")
    return x.permute(order).contiguous().permute([order.index(axis) for axis in range(x.ndim)])


def _checked(written: dict[str, Any]) -> dict[str, Any]:
    """Return what `_written` wrote of a state. Raises ValueError and KeyError for anything else."""
    generators = [listed(own, 2) for own in listed(written["generators"])]
    if not generators or any(len(own) != 2 or not device_name(line(own[0])) for own in generators):
        raise ValueError(f"{short_repr(generators)} are no generators of noise, each with its device")
    own = mapping(written["scheduler"])
    scheduler = {
        "kind": line(own["kind"]),
        "config": own["config"],
        "memory": mapping(own["memory"]),
        "moved": [*map(text, listed(own["moved"], MOST_ENTRIES))],
    }
    named = [(device, text(name)) for device, name in generators]
    return {**written, "generators": named, "one_each": flag(written["one_each"]), "scheduler": scheduler}


def _generator(device: str, state: Tensor) -> torch.Generator:
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"the noise of this run was drawn on {device}, and torch sees no GPU here")
    try:
        generator = torch.Generator(device)
        generator.set_state(state)
    except (RuntimeError, TypeError) as error:  # of another device, or of another size
        raise ValueError(f"{said(state)} is no state of a generator on {device}: {short_repr(str(error))}") from error
    return generator
