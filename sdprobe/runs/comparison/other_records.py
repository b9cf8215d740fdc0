"""Which hooks of two runs recorded something that is not compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sdprobe.core.hook import Observer, overrides
from sdprobe.core.run import Run
from sdprobe.observe.activations import Activations
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.attention_recorder import AttentionRecorder
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.progress import Progress
from sdprobe.observe.statistics import Statistics
from sdprobe.runs.hooks_of_run import hooks_of_run

COMPARED = (Activations, AttentionMaps, AttentionRecorder, LatentRecorder, Statistics)


def notes_on_others(a: Run, b: Run) -> Iterator[str]:
    """Return a note for each observer of either run whose records are not compared."""
    first, second = (dict.fromkeys(said for said, _ in _others(run)) for run in (a, b))
    for said in first | second:
        by = "both" if said in first and said in second else "a only" if said in first else "b only"
        yield f"{said}: recorded by {by}, and not compared"


def records_attention(run: Run) -> bool:
    """Whether any observer of a run that is not compared looks at attention."""
    return any(overrides(live, "attention") for _, live in _others(run))


def _others(run: Run) -> Iterator[tuple[str, Any]]:
    for own in hooks_of_run(run):
        if isinstance(own.live, Observer) and not isinstance(own.live, (*COMPARED, Progress)):
            yield repr(own.given), own.live
