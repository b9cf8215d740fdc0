"""`recorded_steps`: the steps of which any hook of a run recorded something."""

from __future__ import annotations

from sdprobe.core.run import Run
from sdprobe.runs.comparison.recorded_attention import attention_of
from sdprobe.runs.comparison.recorded_values import RecordedActivations, RecordedLatents, RecordedStatistics


def recorded_steps(run: Run) -> set[int]:
    """Return the steps of which latents, statistics, attention or activations were recorded.

    >>> import sdprobe
    >>> hooks = [sdprobe.LatentRecorder(steps=[0]), sdprobe.AttentionMaps(keep="step", words=["circle"])]
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=hooks, steps=3, seed=0, progress=False)
    >>> recorded_steps(run)
    {0, 1, 2}
    """
    found: set[int | None] = {*RecordedLatents(run).indices, *RecordedStatistics(run).indices}
    found.update(step for attention in attention_of(run) for step in attention.steps)
    found.update(index for kept in RecordedActivations(run).kinds.values() for index in kept)
    return {index for index in found if index is not None}
