"""The steps of a call of a stock pipeline: what it sets its scheduler to, and which of them it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.model.base import Model
from sdprobe.model.diffusion.set_and_read import call_and_read


class PipelineSteps:
    """The steps that a pipeline takes, one after the other.

    Args:
        pipe: the live pipeline.
        run_model: the run's own copy of the model.
        run: the run.
        generator: the pipeline's source of noise; None for torch's own.
        predict: the function behind `Step.predict`.
    """

    def __init__(self, pipe: Any, run_model: Model, run: Run, generator: Any, predict: Callable[..., Tensor]) -> None:
        self.pipe, self.run_model, self.run, self.predict = pipe, run_model, run, predict
        self.generator = torch.default_generator if generator is None else generator
        self.index = -1
        self._table: Tensor | None = None  # the timesteps whose levels have been read
        self._following: Iterator[Callable[..., Step]] | None = None

    def on_set_timesteps(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """A pipeline sets its scheduler to its steps: their levels are read before they are on its device."""
        scheduler = self.pipe.scheduler
        self.run_model.levels = call_and_read(scheduler, stock, args, kwargs)
        self._table = scheduler.timesteps

    def on_get_timesteps(self, timesteps: Tensor) -> None:
        """A pipeline that starts from a picture leaves out the timesteps that the picture has passed."""
        scheduler = self.pipe.scheduler
        self.run_model.first = len(scheduler.timesteps) - len(timesteps)
        self.run.settings = replace(self.run.settings, start_step=self.run_model.first // scheduler.order)

    def forget_replaced(self) -> None:
        """Forget the levels of timesteps that the pipeline has replaced by others since it set them."""
        if self.pipe.scheduler.timesteps is not self._table:
            self.run_model.levels = ()

    def begin(self, x: Tensor) -> Step:
        """The next step, which has these latents."""
        self.index += 1
        if self._following is None:
            self._following = self.run_model.steps(self.run, self.run.roles, self.generator, self.predict)
        step = next(self._following)(x)
        return replace(step, total=self.total or step.total)

    @property
    def total(self) -> int | None:
        """How many steps the pipeline says it takes."""
        return getattr(self.pipe, "_num_timesteps", None)

    @property
    def is_at_last(self) -> bool:
        """Whether the step under way is the last."""
        left = len(self.pipe.scheduler.timesteps) - self.run_model.first
        return self.index + 1 == (self.total or left)


def arguments_of_step(scheduler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a scheduler's ``step`` by name; each class of diffusers has its own order of them."""
    methods = (vars(kind).get("step") for kind in type(scheduler).__mro__)
    signatures = (inspect.signature(step) for step in methods if step is not None)
    named = next(own for own in signatures if {"model_output", "sample"} <= {*own.parameters})
    bound = named.bind(scheduler, *args, **kwargs).arguments
    return {name: value for name, value in bound.items() if name != "self"}
