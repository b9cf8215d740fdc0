"""One call of a pipeline that no family knows, on its way past the points that there are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.prompt_of_embeddings import PromptNotRead
from sdprobe.core.run import Run
from sdprobe.model.module_tensors import HIDDEN
from sdprobe.model.unknown.beside_sites import listen_beside
from sdprobe.model.unknown.network_sites import NetworkSites
from sdprobe.model.unknown.unknown_pipeline import UnknownPipeline
from sdprobe.stock_pipelines.call_arguments import CallArguments
from sdprobe.stock_pipelines.interrupt import interruptible
from sdprobe.stock_pipelines.pictures_returned import pictures_made
from sdprobe.stock_pipelines.pipeline_listener import Call, Caller
from sdprobe.stock_pipelines.told_rows import RowsOfBatch, ToldRows
from sdprobe.stock_pipelines.unknown_listener import listen_to_unknown
from sdprobe.stock_pipelines.unknown_points import note_what_is_unknown, refuse_points
from sdprobe.stock_pipelines.unknown_settings import settings_of
from sdprobe.stock_pipelines.unknown_steps import UnknownSteps
from sdprobe.stock_pipelines.who_calls import WhoCalls

NOT_SEEN = torch.empty(0)
"""Stands for the latents of a step of which nobody has seen any."""


def call_unknown(
    model: UnknownPipeline,
    stack: Hooks,
    by_name: Mapping[str, Hook],
    run: Any,
    call: Callable[..., Any],
    arguments: CallArguments,
    rows: RowsOfBatch | None,
    made_by: type[UnknownCall] | None = None,
) -> Any:
    """Make one call of a pipeline that no family knows, past the hooks, and return what it returns.

    Args:
        model: the pipeline.
        stack: the hooks as they were given.
        by_name: those that were given by name.
        run: the run, which is filled.
        call: the pipeline's own call.
        arguments: what it is asked for.
        rows: what the user says of the rows.
        made_by: how such a pipeline does things; None for `UnknownCall`.
    """
    with torch.inference_mode(False), torch.no_grad():
        settings = settings_of(model, arguments)
        prompts, negative = ([*map(PromptNotRead.of_text, own)] for own in (settings.prompt, settings.negative_prompt))
        run.fill(model, settings, prompts, negative)
        run.names = dict(by_name)
        note_what_is_unknown(model, run.coverage, rows is not None)
        refuse_points(model, stack, run.coverage)
        told = ToldRows(run, rows)
        with stack.open(run) as hooks:
            refuse_points(model, hooks, run.coverage)  # a hook may choose its modules when it starts
            unknown_call = (made_by or UnknownCall)(model, run, hooks, told)
            beside = listen_beside(model.beside, hooks, run, told.unlabelled)
            with interruptible(model.pipe, run.control), beside, unknown_call.listening(), unknown_call.watched:
                args, kwargs = _with_callbacks_aside(arguments, unknown_call)
                found = call(*args, **kwargs)
            unknown_call.on_return(found)
            return found


class UnknownCall(WhoCalls):
    """One call of a pipeline that no family knows: what it does is told here, and passes the run's hooks.

    Args:
        model: the pipeline.
        run: the run that is filled.
        hooks: its hooks.
        rows: what the rows are.
    """

    def __init__(self, model: UnknownPipeline, run: Run, hooks: Hooks, rows: ToldRows) -> None:
        self.model, self.run, self.hooks, self.rows = model, run, hooks, rows
        self.caller: Caller = "pipeline"
        self.steps = UnknownSteps(run, model.schedulers)
        self.watched = ExitStack()  # the bracket around a network, where an error leaves it open
        self.sites = {
            part: NetworkSites(
                *(network, model.prefixes[part], model.modules_of[part], model.kinds_of[part]),
                *(hooks, run.coverage, rows.of_tensor),
            )
            for part, network in model.networks.items()
        }
        self.passed: Tensor | None = None  # the latents of the step under way, past their point
        self.changed = False  # whether a hook has changed them
        self.last: Tensor | None = None  # what the scheduler made last

    def listening(self) -> AbstractContextManager[None]:
        """While this is open, what the pipeline does is told."""
        return listen_to_unknown(self.model, self)

    # What the pipeline does.

    def on_set_timesteps(self, scheduler: Any, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline sets a scheduler to its steps."""
        found = stock(*args, **kwargs)
        self.steps.on_set_timesteps(scheduler)
        return found

    def on_get_timesteps(self, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline says which of the timesteps it takes."""
        found = stock(*args, **kwargs)
        taken = found[0] if isinstance(found, tuple) else None
        if isinstance(taken, Tensor) and self.steps.main is not None:
            self.steps.main.first = len(self.steps.main.scheduler.timesteps) - len(taken)
        return found

    def on_prepare_latents(self, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline makes the latents that it begins with."""
        found = stock(*args, **kwargs)
        if not self.steps.is_main:
            return found
        if isinstance(found, Tensor):
            return self.pass_latents(found)
        if isinstance(found, (tuple, list)) and found and isinstance(found[0], Tensor):
            new = self.pass_latents(found[0])
            return found if new is found[0] else type(found)((new, *found[1:]))
        return found

    def on_copied_scheduler(self) -> None:
        """A copy of a scheduler makes a step."""
        self.run.coverage.note_unknown("the steps of copies that the pipeline makes of its scheduler")

    def on_call(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pipeline calls one of its networks."""
        rows = self.rows.of_call(_batch_of(args, kwargs))
        step = self.steps.make(NOT_SEEN if self.passed is None else self.passed, rows)
        self.watched.enter_context(self.sites[part].listen(step))
        self.caller = "denoiser"

    def on_returned(self) -> None:
        """The network returns."""
        self.watched.close()
        self.caller = "pipeline"
        if self.steps.current.scheduler is None:  # without a scheduler each call is a step
            self.steps.current.index += 1
            self.rows.begin_step()

    def on_scheduler_step(self, scheduler: Any, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline gives a scheduler what it made of its networks' output, and its latents."""
        loop = self.steps.loop_of(scheduler)
        if loop is not self.steps.main:
            found = stock(*args, **kwargs)
            loop.index += 1
            self.rows.begin_step()
            return found
        self.steps.current = loop
        bound = inspect.signature(stock).bind(*args, **kwargs)
        output, x = (bound.arguments.get(name) for name in ("model_output", "sample"))
        if loop.index == loop.begun_at and bound.arguments.get("timestep") is not None:
            loop.align(bound.arguments["timestep"])
        if isinstance(output, Tensor) and isinstance(x, Tensor):
            self.check_passed(x)
            with self.hear_nothing("hook"):
                new = self.hooks.noise_pred(output, self.steps.make(x, self.rows.before))
            if new is not output:
                bound.arguments["model_output"] = new
                args, kwargs = bound.args, bound.kwargs
        else:
            self.run.coverage.note_unknown(f"the latents and noise_pred of {type(scheduler).__name__}")
        found = stock(*args, **kwargs)
        self.run.stopped_at = self.run.control.stopped_at
        loop.index += 1
        self.rows.begin_step()
        self.passed = None
        return self.pass_made(found)

    def on_return(self, found: Any) -> None:
        """The call has ended."""
        if self.steps.main is not None and self.model.scheduler is not self.steps.main.scheduler:
            self.run.coverage.note_unknown("the steps of a scheduler that the pipeline has put in the place of its own")
        self.run.latents = self.last
        if self.last is not None:
            self.hooks.final_latents(self.last, self.run)
        self.run.images, frames = pictures_made(found, self.run.settings)
        if frames != self.run.settings.frames:
            self.run.settings = replace(self.run.settings, frames=frames)

    # The latents.

    def pass_latents(self, x: Tensor) -> Tensor:
        """Latents pass their point when they are made, for the step that begins with them."""
        self.count_images(x)
        with self.hear_nothing("hook"):
            new = self.hooks.latents(x, self.steps.make(x, self.rows.before))
        self.passed, self.changed = new, new is not x
        return new

    def pass_made(self, found: Any) -> Any:
        """What a scheduler has made passes as the latents of the next step, or is the last."""
        made = found[0] if isinstance(found, tuple) else getattr(found, "prev_sample", None)
        if not isinstance(made, Tensor):
            self.run.coverage.note_unknown("what the scheduler makes: it has no prev_sample")
            return found
        self.last, loop = made, self.steps.current
        if loop.total is not None and loop.index >= loop.total:
            return found
        self.last = new = self.pass_latents(made)
        if new is made:
            return found
        if isinstance(found, tuple):
            return (new, *found[1:])
        found.prev_sample = new
        return found

    def check_passed(self, x: Tensor) -> None:
        """Compare the latents that the scheduler is given with those that passed their point."""
        index = self.steps.current.index
        if not len(self.hooks.at("latents")):
            return
        if self.passed is None:
            self.pass_latents(x)
            if self.changed:
                raise RuntimeError(
                    f"the latents of step {index} are first seen when the scheduler is given them, after the networks "
                    f"were called, so no transform can change them: let it begin at a later step, as in "
                    f"sdprobe.only(hook, steps=lambda step: step.index > {index})"
                )
            self.run.coverage.note_unknown(f"the latents of step {index} before the networks are called with them")
        elif not _same_values(self.passed, x):
            if self.changed:
                raise RuntimeError(
                    f"the latents of step {index} are not those that a transform has put in their place: "
                    f"{self.model.kind} or a callback changes them between the point latents and the scheduler, in a "
                    f"way that is not known"
                )
            self.run.coverage.note_unknown(
                f"the latents of step {index}: those that the scheduler was given are not those that passed their point"
            )

    def count_images(self, x: Tensor) -> None:
        """Set the number of images to that of the latents, where the arguments told another."""
        settings = self.run.settings
        if x.ndim and len(x) != settings.images and len(x) % len(settings.prompt) == 0:
            self.run.settings = replace(settings, images_per_prompt=len(x) // len(settings.prompt))


def _with_callbacks_aside(arguments: CallArguments, own: UnknownCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments with the user's callbacks replaced by ones that nothing is heard of."""
    new: dict[str, Any] = {}
    if arguments.own_callback is not None:
        new["callback_on_step_end"] = own.call_aside(arguments.own_callback)
        if "callback_on_step_end_tensor_inputs" in arguments.bound.arguments:
            new["callback_on_step_end_tensor_inputs"] = list(arguments.callback_inputs)
    if callable(older := arguments.get("callback")):
        new["callback"] = own.call_aside(older)
    return arguments.bound.replaced(new)


def _batch_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The size of the batch of a call: of what the network is shown, else of its first tensor."""
    given = [*args[:1], *(kwargs[name] for name in HIDDEN if name in kwargs), *args[1:], *kwargs.values()]
    for own in given:
        if isinstance(own, Tensor) and own.ndim:
            return len(own)
        if isinstance(own, (list, tuple)) and own and all(isinstance(part, Tensor) for part in own):
            return len(own)
    return 0


def _same_values(passed: Tensor, x: Tensor) -> bool:
    """Whether the scheduler is given what passed, in another form or not."""
    if passed is x:
        return True
    return passed.numel() == x.numel() and torch.equal(passed.flatten().to(x), x.flatten())
