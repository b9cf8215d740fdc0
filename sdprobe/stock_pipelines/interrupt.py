"""`interruptible`: a hook that ends the run ends a pipeline's loop, by the pipeline's own ``_interrupt``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sdprobe.core.run_control import RunControl


@contextmanager
def interruptible(pipe: Any, control: RunControl) -> Iterator[None]:
    """While this is open, to stop a run is to interrupt its pipeline, which leaves out the steps that follow.

    To stop raises RuntimeError for a pipeline that cannot be interrupted.
    """

    def interrupt() -> None:
        if not hasattr(pipe, "interrupt"):
            raise RuntimeError(
                f"step.stop() ends an attached run by its pipeline's own _interrupt, and {type(pipe).__name__} has none"
            )
        pipe._interrupt = True

    control.on_stop = interrupt
    try:
        yield
    finally:
        control.on_stop = None
        if control.stopped_at is not None:
            pipe._interrupt = False
