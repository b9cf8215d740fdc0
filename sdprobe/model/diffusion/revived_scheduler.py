"""`revived`: the scheduler that was written with a saved run."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers import schedulers as diffusers_schedulers

from sdprobe.core.plain_values import from_plain
from sdprobe.core.written_scheduler import WrittenScheduler
from sdprobe.model.diffusion.ddim_inversion import CorrectedDDIMInverseScheduler, PlainDDIMInverseScheduler
from sdprobe.model.diffusion.flow_inversion import CorrectedFlowInverseScheduler, FlowInverseScheduler
from sdprobe.model.diffusion.rf_solver import RFSolverInverseScheduler, RFSolverScheduler

OWN: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        CorrectedDDIMInverseScheduler,
        PlainDDIMInverseScheduler,
        CorrectedFlowInverseScheduler,
        FlowInverseScheduler,
        RFSolverInverseScheduler,
        RFSolverScheduler,
    )
}


def revived(written: WrittenScheduler, device: torch.device) -> Any:
    """Return the scheduler with its configuration and memory; what was not on the CPU is put on a device.

    Raises ValueError for a class that is none of diffusers'.

    >>> import sdprobe
    >>> from sdprobe.core.written_scheduler import write_scheduler
    >>> tensors = {}
    >>> plain = write_scheduler(sdprobe.load().pipe.scheduler, tensors, "scheduler")
    >>> type(revived(WrittenScheduler(**plain, tensors=tensors), torch.device("cpu"))).__name__
    'DDIMScheduler'
    """
    kind: Any = OWN.get(written.kind) or getattr(diffusers_schedulers, written.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise ValueError(f"the run was made with {written.kind}, which is no scheduler of diffusers: resume a live run")
    known: Any = kind
    tensors = {name: x.to(device) if name in written.moved else x for name, x in written.tensors.items()}
    scheduler = known.from_config(from_plain(written.config, tensors))
    vars(scheduler).update({name: from_plain(own, tensors) for name, own in written.memory.items()})
    return scheduler
