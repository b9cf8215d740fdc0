"""`refuse_not_begun`: a run of an attached pipeline has nothing in it before the pipeline is called."""

from __future__ import annotations

from sdprobe.core.run import Run


def refuse_not_begun(run: Run) -> None:
    """Raise ValueError for the run of an attached pipeline that has not been called."""
    if getattr(run, "begun", True) is False:
        raise ValueError("this run has not begun: call the pipeline first, inside the with")
