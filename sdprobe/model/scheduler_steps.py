"""`SchedulerSteps`: the steps of a run, as its scheduler makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.limits.expected import expect
from sdprobe.core.rows import Role, Row
from sdprobe.core.run import Run, State
from sdprobe.core.step import Step
from sdprobe.model.diffusion.noise_levels import Level, StepLevels, denoised, level_device, output_for, step_levels
from sdprobe.model.diffusion.scheduler_copies import copied_state
from sdprobe.model.pipeline_parts import Latents


class SchedulerSteps:
    """What the loop asks of a run's scheduler: its steps, and the latents after each.

    Attributes:
        pipe: the pipeline, with the run's own scheduler.
        first: the scheduler's step that is the first of the run; those before are left out with an image to start from.
        begin: the step of the run at which it begins; 0 unless it continues another.
        levels: those of the scheduler's steps, read when they were set.
    """

    pipe: Any
    first: int
    begin: int
    levels: StepLevels | tuple[()]

    def steps(
        self, run: Run, roles: Sequence[Role], generator: Any, to_prediction: Callable[..., Tensor]
    ) -> Iterator[Callable[..., Step]]:
        """Return a function for every step of the run, which makes the `Step` from its latents."""
        scheduler = self.pipe.scheduler
        rows = tuple(Row(i, run.prompt_of(i, role), role) for role in roles for i in range(run.settings.images))
        levels = self.levels or step_levels(scheduler)
        device, total = level_device(scheduler), len(levels) - self.first
        run.levels = levels.from_step(self.first)
        for index in range(self.begin, total):
            timestep, sigma, signal, noise, level = levels[self.first + index]

            def to_denoised(output: Tensor, sample: Tensor, level: Level = level) -> Tensor:
                return denoised(scheduler, output, sample, level.to(device))

            def to_output(x0: Tensor, sample: Tensor, level: Level = level) -> Tensor:
                return output_for(scheduler, x0, sample, level.to(device))

            def to_state(x: Tensor, index: int = index) -> State:
                return State(index, x.detach().clone(), *copied_state(scheduler, generator), levels)

            yield partial(
                Step,
                *(index, total, timestep, sigma, signal, noise),
                rows=rows,
                run=run,
                to_denoised=to_denoised,
                to_output=to_output,
                to_state=to_state,
                to_prediction=to_prediction,
            )

    def expected_steps(self, run: Run) -> list[Step]:
        """Return every step of a run, with placeholder latents."""
        unknown = torch.empty(0, 0, 0, 0)  # nobody can read it: an expected step refuses
        return [expect(step_at(unknown)) for step_at in self.steps(run, run.roles, None, _not_yet)]

    def timestep(self, step: Step) -> Tensor:
        """Return the scheduler's number for a step as the tensor that the network and the scheduler get."""
        return torch.as_tensor(self.pipe.scheduler.timesteps[self.first + step.index])

    def step_options(self, generator: Any) -> dict[str, Any]:
        """Return what the scheduler is given in every step of a run beside the latents, by argument name."""
        if (prepare := getattr(self.pipe, "prepare_extra_step_kwargs", None)) is not None:
            return dict(prepare(generator, 0.0))
        # Flow pipelines pass no generator, but noise must come from the seed.
        return {"generator": generator} if "generator" in signature(self.pipe.scheduler.step).parameters else {}

    def advance(self, noise_pred: Latents, step: Step, x: Latents, options: Mapping[str, Any]) -> Latents:
        """Return x_{t-1}, from the scheduler."""
        timestep = self.timestep(step)
        made: Sequence[Tensor] = self.pipe.scheduler.step(noise_pred, timestep, x, **options, return_dict=False)
        return made[0]


def _not_yet(*asked: Any) -> Tensor:
    raise RuntimeError("the run has not begun: its denoiser cannot be asked yet")
