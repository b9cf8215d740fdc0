"""`WrittenScheduler`: a scheduler with its memory of a run, as JSON and tensors."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdprobe.core.plain_values import Tensors, to_plain


@dataclass(frozen=True, eq=False)
class WrittenScheduler:
    """A scheduler of diffusers as a file holds it. `sdprobe.resume` makes a scheduler of it.

    Args:
        kind: the name of its class.
        config: its configuration, as `sdprobe.core.plain_values.to_plain` writes it.
        memory: its other attributes, likewise.
        moved: the names of the tensors that were not on the CPU.
        tensors: the tensors of both.
    """

    kind: str
    config: Any
    memory: Mapping[str, Any]
    moved: Sequence[str]
    tensors: Tensors

    def __repr__(self) -> str:
        return f"WrittenScheduler({self.kind!r})"


def write_scheduler(scheduler: Any, tensors: MutableMapping[str, Tensor], at: str) -> dict[str, Any]:
    """Return a scheduler as JSON holds it; its tensors are put into ``tensors``.

    Raises TypeError for a scheduler that holds something that cannot be written, saying what.
    """
    own: dict[str, Tensor] = {}
    if isinstance(scheduler, WrittenScheduler):
        tensors.update({name: scheduler.tensors[name] for name in scheduler.tensors if name.startswith(f"{at}.")})
        return {name: value for name, value in vars(scheduler).items() if name != "tensors"}
    memory = {name: value for name, value in vars(scheduler).items() if name != "_internal_dict"}
    if (path := memory.get("noise_sampler")) is not None:
        # A Brownian path follows from its seeds: with these the scheduler makes it again in its next step.
        seeds = [interval._entropy for interval in path.tree.trees]
        memory |= {"noise_sampler": None, "noise_sampler_seed": seeds if path.tree.batched else seeds[0]}
    written = {
        "kind": type(scheduler).__name__,
        "config": to_plain(dict(scheduler.config), own, f"{at}.config"),
        "memory": {name: to_plain(value, own, f"{at}.{name}") for name, value in memory.items()},
    }
    tensors.update(own)
    return written | {"moved": [name for name, x in own.items() if x.device.type != "cpu"]}
