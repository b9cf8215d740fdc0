"""The steps of a pipeline that no family knows, as far as its schedulers tell them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.rows import Role, Row
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.model.diffusion.noise_levels import StepLevels, denoised, level_device, output_for, step_levels

NAN = float("nan")


@dataclass(frozen=True)
class StepOfUnknown(Step):
    """A step of a pipeline that no family knows: what it cannot do, it says.

    Args:
        total: the number of steps; None before the pipeline has set its scheduler.
        latents: in any form, as the pipeline has them; empty where nobody has seen them.
    """

    total: Any
    latents: Any = field(repr=False)

    def leave_out(self, role: Role) -> None:
        raise _cannot("step.leave_out")

    def predict(self, latents: Tensor, *hooks: Any, **options: Any) -> Tensor:
        raise _cannot("step.predict")


@dataclass
class Loop:
    """The steps of one scheduler.

    Attributes:
        scheduler: the scheduler.
        index: the number of the step under way.
        is_set: whether the pipeline has set it to its steps.
        begun_at: the step at which it was last set.
        first: how many of the timesteps it was set to are left out.
    """

    scheduler: Any
    index: int = 0
    is_set: bool = False
    begun_at: int = 0
    first: int = 0
    _table: list[float] = field(default_factory=list)
    _levels: StepLevels | tuple[()] = ()

    def set_again(self) -> None:
        """The pipeline has set the scheduler to its steps."""
        self.is_set, self.begun_at, self.first = True, self.index, 0
        given = getattr(self.scheduler, "timesteps", None)
        timesteps = torch.as_tensor([] if given is None else given)
        self._table = timesteps.tolist() if timesteps.ndim == 1 else []
        self._levels = ()

    @property
    def position(self) -> int:
        """The place of the step among the scheduler's timesteps."""
        return self.first + self.index - self.begun_at

    @property
    def total(self) -> int | None:
        """How many steps there are, as far as the scheduler is set; None if it is not."""
        return self.begun_at + len(self._table) - self.first if self._table else None

    @property
    def timestep(self) -> float:
        """The scheduler's number for the step; NaN where it is not known."""
        return float(self._table[self.position]) if 0 <= self.position < len(self._table) else NAN

    def align(self, timestep: Any) -> None:
        """Find the step's place by the timestep that the scheduler is given: the first ones may be left out."""
        given = float(torch.as_tensor(timestep).flatten()[0])
        if given != self.timestep and given in self._table[max(self.position, 0) :]:
            self.first += self._table.index(given, max(self.position, 0)) - self.position

    def read_levels(self) -> StepLevels | tuple[()]:
        """Return the noise levels of the scheduler's steps. Raises what reading them raises."""
        if not self._levels and self._table:
            self._levels = step_levels(self.scheduler)
        return self._levels


class UnknownSteps:
    """The steps that a pipeline takes: those of the scheduler that it has set last.

    Args:
        run: the run.
        schedulers: the pipeline's schedulers by name.
    """

    def __init__(self, run: Run, schedulers: dict[str, Any]) -> None:
        self.run = run
        self._loops = {id(own): Loop(own) for own in schedulers.values()}
        self.main = self._loops.get(id(schedulers.get("scheduler")))
        self.current = self.main or next(iter(self._loops.values()), Loop(None))

    @property
    def is_main(self) -> bool:
        """Whether the steps under way are those of the part named ``scheduler``."""
        return self.current is self.main

    def loop_of(self, scheduler: Any) -> Loop:
        """Return the steps of a scheduler."""
        return self._loops[id(scheduler)]

    def on_set_timesteps(self, scheduler: Any) -> None:
        """A pipeline has set a scheduler: the steps that follow are its."""
        self.current = self.loop_of(scheduler)
        self.current.set_again()

    def make(self, latents: Tensor, rows: tuple[Row, ...]) -> Step:
        """Return the step under way, with these latents and rows."""
        loop = self.current
        levels = self._levels(loop)
        level = levels[loop.position] if 0 <= loop.position < len(levels) else None
        sigma, signal, noise = (NAN,) * 3 if level is None else (level.sigma, level.signal, level.noise)
        denoise, undo = _conversions(loop, level)
        return StepOfUnknown(
            *(loop.index, loop.total, loop.timestep, sigma, signal, noise),
            latents=latents,
            rows=rows,
            run=self.run,
            to_denoised=denoise,
            to_output=undo,
            to_state=_refuse_state,
            to_prediction=_refuse_prediction,
        )

    def _levels(self, loop: Loop) -> StepLevels | tuple[()]:
        try:
            levels = loop.read_levels()
        except Exception as error:  # a scheduler may keep its levels in any way: what cannot be read is said
            self.run.coverage.note_unknown(f"the noise levels of {type(loop.scheduler).__name__} ({error})")
            return ()
        if loop is self.main and isinstance(levels, StepLevels) and not self.run.levels:
            self.run.levels = levels.from_step(loop.first)
        return levels


def _conversions(
    loop: Loop, level: Any
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Return the functions behind `Step.denoised` and `Step.output_for`."""

    def to_denoised(output: Tensor, sample: Tensor) -> Tensor:
        if level is None or output.shape != sample.shape:
            raise _cannot("predicted x0")
        return denoised(loop.scheduler, output, sample, level.level.to(level_device(loop.scheduler)))

    def to_output(x0: Tensor, sample: Tensor) -> Tensor:
        if level is None or x0.shape != sample.shape:
            raise _cannot("the output for an x0")
        return output_for(loop.scheduler, x0, sample, level.level.to(level_device(loop.scheduler)))

    return to_denoised, to_output


def _cannot(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what} cannot be had here: no family knows this pipeline, or its scheduler does not tell what is needed. "
        f"What there is: attention, activation, latents and noise_pred"
    )


def _refuse_state(x: Tensor) -> Any:
    raise _cannot("step.state")


def _refuse_prediction(*asked: Any) -> Tensor:
    raise _cannot("step.predict")
