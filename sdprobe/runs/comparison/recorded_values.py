"""What a run recorded of its latents, statistics and activations: by step, and by the number of the image in the run.

A hook that `sdprobe.only` limits to rows numbers its images anew; here they have the numbers of the whole run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.record import ActivationKey, ActivationRecord
from sdprobe.core.run import Run
from sdprobe.observe.activations import Activations
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.statistics import Statistics
from sdprobe.runs.hooks_of_run import hooks_of_run

Of = TypeVar("Of")
STEP_POINTS = ("latents", "noise_pred", "sample")  # which are passed once in every step


def records_of(run: Run, kind: type[Of]) -> list[tuple[Of, tuple[int, ...]]]:
    """Return the records of every hook of a kind, each with the numbers of the images that it was given."""
    return [(own.live, own.images) for own in hooks_of_run(run) if isinstance(own.live, kind)]


def calls_of(run: Run, recorded: Iterable[int]) -> int:
    """Return how often the run called its denoiser: with a second-order scheduler, more often than it has steps; and
    less often where it began from a picture."""
    counted = [own.calls[point] for own in run.coverage.hooks for point in STEP_POINTS if point in own.calls]
    from_first = run.resumed_at + max(counted, default=0)
    asked = 0 if run.settings.steps is None else run.settings.steps - run.settings.start_step  # not all pipelines say
    return max(asked, from_first, 1 + max(recorded, default=-1))


class RecordedLatents:
    """Latents, noise and predicted x0 of a run, of all of its `LatentRecorder` together.

    Attributes:
        indices: the steps of which anything was recorded.
    """

    def __init__(self, run: Run) -> None:
        self.records = records_of(run, LatentRecorder)
        self.indices = sorted({index for recorder, _ in self.records for index in recorder.indices})

    def at(self, index: int) -> Mapping[str, Mapping[int, Shaped[Tensor, "channels h w"]]]:
        """Return what was recorded of a step: by name, then by image."""
        found: dict[str, dict[int, Tensor]] = {}
        for recorder, images in self.records:
            if index in recorder.indices:
                for name, values in recorder.at(index).items():
                    if len(values) == len(images):
                        found.setdefault(name, {}).update(zip(images, values, strict=True))
        return found


class RecordedStatistics:
    """Mean, standard deviation and norm, of all `Statistics` of a run together.

    Attributes:
        indices: the steps of which they were recorded.
    """

    def __init__(self, run: Run) -> None:
        self.records = [own for own in records_of(run, Statistics) if own[0].indices]
        self.indices = sorted({index for own, _ in self.records for index in own.indices})

    def at(self, name: str, index: int) -> Mapping[int, tuple[float, float, float]]:
        """Return those of a quantity at a step, by image."""
        found: dict[int, tuple[float, float, float]] = {}
        for own, images in self.records:
            if index in own.indices:
                moments = own[name]  # type: ignore[index]
                at = own.indices.index(index)
                columns = zip(*(moment[at].tolist() for moment in moments), strict=True)
                found.update(zip(images, columns, strict=False))
        return found


def activations_of(run: Run) -> list[Activations]:
    """Return the records of every `Activations` of a run; of an opened run, of those that could be saved."""
    return [
        own for own, _ in records_of(run, Activations) if isinstance(getattr(own, "record", None), ActivationRecord)
    ]


class Kind(NamedTuple):
    """Which activation it is, and how it was recorded: only what was recorded alike is compared."""

    key: ActivationKey
    reduce: str
    tokens: str


class RecordedActivations:
    """Activations, of all `Activations` hooks of a run together.

    Attributes:
        kinds: what was recorded, in the order in which the network passes it, each with its steps.
    """

    def __init__(self, run: Run) -> None:
        self.kinds: dict[Kind, dict[int | None, ActivationRecord]] = {}
        for own in activations_of(run):
            how = [repr(own.record.description.get(name)) for name in ("reduce", "tokens")]
            for index in own.record.indices:
                for key in own.record.forms(index):
                    self.kinds.setdefault(Kind(key, *how), {}).setdefault(index, own.record)

    def at(self, kind: Kind, index: int | None) -> Mapping[tuple[int, str], Shaped[Tensor, ...]]:
        """Return one activation at one step, by image and role."""
        record = self.kinds[kind][index]  # whose rows have the numbers of the whole run
        values, form = record.at(index, kind.key), record.form_of(index, kind.key)
        return {(row.image, row.role): x for row, x in zip(form.rows, values, strict=True)}


def dtype_of_run(run: Run) -> torch.dtype:
    """Return the dtype in which a run was computed: that of its final latents."""
    return torch.float32 if run.latents is None else run.latents.dtype
