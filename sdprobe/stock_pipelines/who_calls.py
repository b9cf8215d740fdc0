"""`WhoCalls`: who calls at the moment: the pipeline, its denoiser, a hook, or a callback of the caller's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from sdprobe.stock_pipelines.pipeline_listener import Call, Caller


class WhoCalls:
    """Knows who calls at the moment; only what the pipeline itself does is told.

    Attributes:
        caller: who calls.
    """

    caller: Caller = "pipeline"

    @contextmanager
    def hear_nothing(self, caller: Caller) -> Iterator[None]:
        """While this is open, what is called is called by a hook or a callback, and not by the pipeline."""
        before, self.caller = self.caller, caller
        try:
            yield
        finally:
            self.caller = before

    def call_aside(self, callback: Call) -> Call:
        """A callback of the user's, called as one that nothing is heard of."""

        @wraps(callback)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.hear_nothing("callback"):
                return callback(*args, **kwargs)

        return call
