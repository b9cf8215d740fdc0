"""One call of a stock pipeline on its way past the points, in the order in which the pipeline does things."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.compose import Hooks
from sdprobe.core.run import Role, Row, Run
from sdprobe.core.step import Step
from sdprobe.model.base import Model
from sdprobe.model.denoiser.apply_limited_text import apply_limited_text, limit_text_beside
from sdprobe.model.denoiser.expected_sites import tell_expected_sites
from sdprobe.model.denoiser.further_calls import predicting
from sdprobe.model.denoiser.module_hooks import ModuleHooks
from sdprobe.model.families.pixart import PixArt
from sdprobe.model.text.gradient_leaves import grow_prompt_leaf
from sdprobe.stock_pipelines.call_arguments import CallArguments
from sdprobe.stock_pipelines.encode_by_role import copied_lists, encode_by_role, read_encoded
from sdprobe.stock_pipelines.left_out_of_call import LeftOutOfCall
from sdprobe.stock_pipelines.pictures_of_call import PicturesOfCall
from sdprobe.stock_pipelines.pipeline_listener import Arguments, Call, Caller
from sdprobe.stock_pipelines.pipeline_steps import PipelineSteps, arguments_of_step
from sdprobe.stock_pipelines.repeat_denoiser_call import DenoiserCall, RepeatedDenoiser, embeds_of, shown_of, with_shown
from sdprobe.stock_pipelines.replaced_latents import ReplacedLatents
from sdprobe.stock_pipelines.shown_rows import ShownRows
from sdprobe.stock_pipelines.size_of_call import fit_to_call, fit_to_size

FURTHER = (
    "the rows of further calls of the denoiser, which the pipeline makes for a guidance of its own: hooks see nothing "
    "of them, and only transforms of the text act there"
)


class PipelineCall(PicturesOfCall):
    """One call of a pipeline: what the pipeline does is told here, and passes the run's hooks.

    Args:
        model: the model of the pipeline.
        run_model: the run's own copy of it, whose tokenizers know what hooks have brought.
        run: the run that is filled.
        hooks: its hooks.
        arguments: what the pipeline was asked for.
        rows: what the rows are that it shows its networks.
    """

    def __init__(
        self, model: Model, run_model: Model, run: Run, hooks: Hooks, arguments: CallArguments, rows: ShownRows
    ) -> None:
        self.model, self.run_model, self.run = model, run_model, run
        self.hooks, self.arguments, self.rows = hooks, arguments, rows
        self.caller: Caller = "pipeline"
        self.latents = ReplacedLatents(run_model, run)
        self.on_prepare_latents = self.latents.hold
        self.module_hooks = ModuleHooks.of_run(run_model, run, hooks)
        self.watched = ExitStack()  # the bracket around the denoiser, where an error leaves it open
        self.controlled = getattr(model.pipe, "controlnet", None) is not None
        self.steps = PipelineSteps(model.pipe, run_model, run, arguments.get("generator"), self.predict)
        # Of the step under way:
        self.step: Step | None = None
        self.timestep: Any = None  # what the scheduler scaled the latents by, where it did
        self.unscaled: Tensor | None = None  # the latents before that
        self.told: list[tuple[tuple[Row, ...], DenoiserCall]] = []  # the calls of the denoiser
        self.outputs: list[Tensor] = []  # and what they returned
        self.asked = LeftOutOfCall((), ())  # the rows of the call under way

    # What the pipeline does, in its order.

    def on_encode_prompt(self, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline encodes its prompts: all of them at once, or one side of them with each call."""
        given = inspect.signature(stock).bind(*args, **kwargs)
        given.apply_defaults()
        roles = self.rows.roles_encoded(given.arguments.get("do_classifier_free_guidance"))
        with self.hear_nothing("hook"):
            return encode_by_role(self.run_model, self.run, self.hooks, roles, stock, args, kwargs)

    def on_set_timesteps(self, stock: Call, *args: Any, **kwargs: Any) -> None:
        """A pipeline sets its scheduler to its steps."""
        self.steps.on_set_timesteps(stock, *args, **kwargs)

    def on_get_timesteps(self, timesteps: Tensor) -> None:
        """A pipeline says which of the timesteps it takes."""
        self.steps.on_get_timesteps(timesteps)

    def on_scale_model_input(self, stock: Call, rows: Tensor, timestep: Any) -> Tensor:
        """A pipeline scales its latents, one copy for each group of rows, to what its networks are shown."""
        self.timestep, self.unscaled = timestep, rows
        if self.controlled:  # ControlNet is shown them before the denoiser is
            rows = self.put_latents_in(rows)
        scaled: Tensor = stock(rows, timestep)
        return scaled

    def on_controlnet(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """A pipeline shows its latents to ControlNet."""
        args, kwargs = self.model.call_by_name(args, kwargs)
        self.fit(kwargs)
        if self.timestep is None:
            args, kwargs = self.show_latents(args, kwargs)
        return self.model.call_as_made(args, self.limited_text_beside(args, kwargs))

    def on_denoise(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """A pipeline calls its denoiser."""
        embeds = embeds_of(args, kwargs)
        args, kwargs = self.pass_denoiser_call(*self.model.call_by_name(args, kwargs), embeds)
        return self.model.call_as_made(args, kwargs)

    def pass_denoiser_call(self, args: tuple[Any, ...], kwargs: dict[str, Any], embeds: Any) -> Arguments:
        """A call of the denoiser, by the usual names of its arguments, past the hooks."""
        self.fit(kwargs)
        count, before = len(self.rows_shown(args, kwargs)), tuple(row for rows, _ in self.told for row in rows)
        rows = self.rows.of_call(count, embeds, before)
        if rows is not None:
            self.told.append((rows, DenoiserCall(args, kwargs, count, self.run_model)))
        if self.step is None:
            args, kwargs = self.begin_step_at_denoiser(args, kwargs)
        elif self.timestep is None:
            args, kwargs = self.show_latents(args, kwargs)
        if rows is None:
            self.run.coverage.note_unknown(FURTHER)
            return args, self.limited_text_beside(args, kwargs)
        self.asked = LeftOutOfCall.asked(self.current_step(), rows, self.module_hooks.has_caches)
        call, rows = self.asked.narrowed(DenoiserCall(args, kwargs, count, self.run_model)), self.asked.rows
        self.told[-1], args, kwargs = (rows, call), call.args, dict(call.kwargs)
        step = replace(self.current_step(), rows=rows)
        self.watched.enter_context(self.module_hooks.listen(step, kwargs))
        self.caller = "denoiser"
        kwargs, leaves = grow_prompt_leaf(apply_limited_text(kwargs, step), self.hooks)
        self.step = replace(self.current_step(), leaves={**step.leaves, **leaves})
        return args, kwargs

    def on_denoised(self, output: Any) -> Any:
        """The denoiser returns."""
        self.watched.close()
        step = replace(self.current_step(), rows=self.told[-1][0])
        channels = step.latents.shape[1]
        came = self.run_model.output_of(output, *self.run_model.latent_shape(self.run.settings))
        own = came if came.shape[1] == channels else came[:, :channels]  # the rest is its own spread: learned sigma
        self.caller = "pipeline"
        with self.hear_nothing("hook"):
            new = self.hooks.model_output(own, step)
        self.outputs.append(new)
        if new is not own:
            whole = new if own is came else torch.cat([new, came[:, channels:]], dim=1)
            output = self.run_model.answer_of(whole, output)
        return self.asked.widened(output)

    def on_scheduler_step(self, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline gives its scheduler what it made of the denoiser's output, and its latents."""
        if self.step is None:
            return stock(*args, **kwargs)
        given = arguments_of_step(self.model.pipe.scheduler, args, kwargs)
        noise_pred, x = given["model_output"], given["sample"]
        with self.hear_nothing("hook"):
            rows = tuple(row for rows, _ in self.told for row in rows)
            step = replace(self.step, rows=rows, model_output=torch.cat(self.outputs))
            guided = self.latents.show(noise_pred)
            new = self.hooks.noise_pred(guided, step)
            noise_pred = noise_pred if new is guided else self.latents.hand_back(new, noise_pred)
            came = step.latents.detach()
            new = self.hooks.sample(came, step)
        torch.set_grad_enabled(False)
        x = self.latents.hand_back(new, x) if self.latents.instead is not None or new is not came else x
        self.step = self.timestep = self.unscaled = self.latents.instead = None
        self.told, self.outputs, self.run.stopped_at = [], [], self.run.control.stopped_at
        given["model_output"], given["sample"] = noise_pred.detach(), x
        found = stock(**given)
        self.latents.hold(found)
        if self.steps.is_at_last and not self.arguments.calls_back:
            if not isinstance(found, tuple):
                found.prev_sample = self.pass_final_latents(found.prev_sample)
                return found
            # Of a model distilled to one step PixArt takes the scheduler's second answer, predicted x0.
            taken = 1 if isinstance(self.run_model, PixArt) and self.run.settings.steps == 1 < len(found) else 0
            return (*found[:taken], self.pass_final_latents(found[taken]), *found[taken + 1 :])
        return found

    def on_step_end(self, pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        """A step has ended: what the caller's own callback changes comes first."""
        own, changed = self.arguments.own_callback, dict[str, Any]()
        if own is not None:
            with self.hear_nothing("callback"):
                changed = own(pipe, index, timestep, {name: values[name] for name in self.arguments.callback_inputs})
            self.rows.expect(changed)
            self.latents.held = changed.get("latents", self.latents.held)
        if self.steps.is_at_last or getattr(pipe, "interrupt", False):
            changed = {**changed, "latents": self.pass_final_latents(changed.get("latents", values["latents"]))}
        return changed

    # What a callback and a hook do in between.

    def on_encode_in_callback(self, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A callback encodes a prompt for its own ends: no hook acts, but the text is known if it is given back."""
        asked, named = copied_lists(args), dict(zip(kwargs, copied_lists(kwargs.values()), strict=True))
        returned = stock(*args, **kwargs)
        for prompts, embeds in read_encoded(self.model, stock, asked, named, returned):
            self.rows.remember(prompts, embeds)
        return returned

    def predict(
        self, step: Step, x: Tensor, hooks: Iterable[Any], role: Role | None, beside: Tensor | None, by: Any
    ) -> Tensor:
        """`Step.predict`: the pipeline's own call of its denoiser, once more."""
        if not self.told and not self.module_hooks.busy:
            raise RuntimeError(
                "in an attached pipeline step.predict repeats the pipeline's own call of its denoiser; with ControlNet "
                "that is not yet known at latents: call it at model_output or noise_pred"
            )
        replay = RepeatedDenoiser(self.model, self.timestep)
        asked = [own for own in self.told if role in (None, *(row.role for row in own[0]))] or self.told[:1]
        besides = replay.split(beside, [sum(role in (None, row.role) for row in rows) for rows, _ in asked])
        with self.hear_nothing("hook"):
            parts = [
                predicting(replay, self.module_hooks, told)(replace(step, rows=rows), x, hooks, role, own, by)
                for (rows, told), own in zip(asked, besides, strict=True)
            ]
        return torch.cat(parts)

    # The step.

    def put_latents_in(self, rows: Tensor) -> Tensor:
        """What a network is given instead of the pipeline's latents, from the step's beginning on."""
        if self.step is None:
            self.begin_step(rows)
        return self.latents.replace_in(rows)

    def begin_step_at_denoiser(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Begin a step with the call of its denoiser, which can be repeated from then on."""
        shown = self.rows_shown(args, kwargs) if self.unscaled is None else self.unscaled
        rows = self.put_latents_in(shown)
        if self.latents.instead is None:
            return args, kwargs
        if self.timestep is not None:
            with self.hear_nothing("hook"):
                rows = self.model.pipe.scheduler.scale_model_input(rows, self.timestep)
        return DenoiserCall(args, kwargs, len(shown), self.run_model).showing(rows)

    def fit(self, call: Mapping[str, Any]) -> None:
        """Before the first step, set the run's size to what a call of a network tells."""
        if self.steps.index < 0 and self.step is None and fit_to_call(self.run_model, self.run, call):
            self.module_hooks = ModuleHooks.of_run(self.run_model, self.run, self.hooks)

    def rows_shown(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The rows that a network is shown, in the form in which the pipeline holds its latents."""
        return self.run_model.rows_of(shown_of(args, kwargs))

    def show_latents(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of a call of a network, with what stands for the pipeline's latents."""
        shown = shown_of(args, kwargs)
        return with_shown(
            args, kwargs, self.run_model.shown_as(self.put_latents_in(self.run_model.rows_of(shown)), shown)
        )

    def begin_step(self, rows: Tensor) -> None:
        """Begin a step: its latents pass their point."""
        self.rows.groups(len(rows))
        x = self.latents.show(self.latents.unrounded(rows[: self.run.settings.images]))
        if self.steps.index < 0:
            if fit_to_size(self.run_model, self.run, *x.shape[2:]):
                self.module_hooks = ModuleHooks.of_run(self.run_model, self.run, self.hooks)
            self.steps.forget_replaced()
            self.module_hooks.refuse_unreachable(self.run_model, self.run)
            tell_expected_sites(self.run_model, self.run, self.hooks)
        step = replace(self.steps.begin(x), rows=self.rows.expected())
        with self.hear_nothing("hook"):
            new = self.hooks.latents(x, step)
        gradients = self.hooks.needs_grad
        own = new.detach().requires_grad_(gradients)
        self.latents.instead = own if new is not x or gradients else None
        self.step = replace(step, latents=own, leaves={"latents": own} if "latents" in self.hooks.grad_leaves else {})
        torch.set_grad_enabled(gradients)

    def current_step(self) -> Step:
        """The step under way."""
        if self.step is None:
            raise RuntimeError("the pipeline called its denoiser twice in one step, in a way that attach does not know")
        return self.step

    def limited_text_beside(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a network is told beside the loop's own call, where limited transforms of the text tell it another."""
        rows = self.rows.beside(count := len(self.rows_shown(args, kwargs)))
        return kwargs if len(rows) != count else limit_text_beside(kwargs, replace(self.current_step(), rows=rows))

    def pass_final_latents(self, latents: Tensor) -> Tensor:
        """The latents after the last step, past their point."""
        came = self.latents.show(latents)
        with self.hear_nothing("hook"):
            self.run.latents = self.hooks.final_latents(came, self.run)
        self.run.nan_trace.note_final(self.run.latents)
        return latents if self.run.latents is came else self.latents.hand_back(self.run.latents, latents)
