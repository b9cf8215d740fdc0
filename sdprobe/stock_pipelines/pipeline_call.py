"""A call of a stock pipeline on its way past the points: what `listening` tells becomes what `sample` does by itself.

The pipeline keeps its latents in a variable of its own, which nobody else can write to. So latents that a hook has
changed are put in their place wherever the pipeline hands its own on: to the denoiser, to ControlNet, to the scheduler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.compose import Hooks
from sdprobe.core.run import Role, Row, Run, Step
from sdprobe.model.base import Model
from sdprobe.model.denoiser.further_calls import predicting
from sdprobe.model.denoiser.limited_conditioning import apply_limited_text
from sdprobe.model.denoiser.module_hooks import ModuleHooks
from sdprobe.model.families.flux import Flux
from sdprobe.model.families.pixart import PixArt
from sdprobe.stock_pipelines.call_arguments import CallArguments
from sdprobe.stock_pipelines.encode_by_role import encode_by_role
from sdprobe.stock_pipelines.repeat_denoiser_call import DenoiserCall, RepeatedDenoiser, shown_of, with_shown

Call = Callable[..., Any]


class PipelineCall:
    """One call of a pipeline.

    Args:
        model: the model of the pipeline.
        run_model: the run's own copy of it, whose tokenizers know what hooks have brought.
        run: the run that is filled.
        hooks: its hooks.
        arguments: what the pipeline was asked for.
    """

    def __init__(self, model: Model, run_model: Model, run: Run, hooks: Hooks, arguments: CallArguments) -> None:
        self.model, self.run_model, self.run = model, run_model, run
        self.hooks, self.arguments = hooks, arguments
        self.listening, self.running = True, False
        self.roles: tuple[Role, ...] = ()
        self.module_hooks = ModuleHooks.of_run(self.run_model, run, hooks)
        self._steps: Iterator[Callable[..., Step]] | None = None
        self._step: Step | None = None
        self._replaced = False
        self._index = -1
        self._scaled: Any = None
        self._controlled = getattr(model.pipe, "controlnet", None) is not None
        self._calls: list[tuple[tuple[Row, ...], DenoiserCall, Tensor]] = []
        self.watched = ExitStack()  # the bracket around the denoiser, where an error leaves it open

    # What the pipeline does, in its order.

    def on_encode_prompt(self, stock: Call, *args: Any, **kwargs: Any) -> Any:
        """A pipeline encodes its prompts: all of them at once, or one side of them with each call."""
        given = inspect.signature(stock).bind(*args, **kwargs)
        given.apply_defaults()
        guided = given.arguments.get("do_classifier_free_guidance")
        if guided is None:  # Flux: the prompts, then in a further call the negative ones
            sides: tuple[Role, ...] = ("uncond",) if self.roles else ("cond",)
            self.roles = (*self.roles, *sides)
        else:
            self.roles = self.run_model.roles(self.run.settings.guidance_scale) if guided else ("cond",)
            sides = tuple(role for role in self.roles if role != "image")
        with self._paused():
            return encode_by_role(self.run_model, self.run, self.hooks, sides, stock, args, kwargs)

    def on_get_timesteps(self, timesteps: Tensor) -> None:
        """A pipeline that starts from a picture leaves out the timesteps that the picture has passed."""
        scheduler = self.model.pipe.scheduler
        self.run_model.first = len(scheduler.timesteps) - len(timesteps)
        self.run.settings = replace(self.run.settings, start_step=self.run_model.first // scheduler.order)

    def on_scale_model_input(self, stock: Call, rows: Tensor, timestep: Any) -> Tensor:
        """A pipeline scales its latents, one copy for each group of rows, to what the denoiser is shown."""
        self._scaled, self._unscaled = timestep, rows
        if self._controlled:
            rows = self._entering(rows)
        scaled: Tensor = stock(rows, timestep)
        return scaled

    def on_controlnet(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A pipeline shows its latents to ControlNet."""
        args, kwargs = (args, kwargs) if self._scaled is not None else self._with_entering(args, kwargs)
        return args, self._besides(args, kwargs)

    def on_denoise(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A pipeline calls its denoiser."""
        if self._step is None:
            args, kwargs = self._beginning(args, kwargs)
        elif self._scaled is None:
            args, kwargs = self._with_entering(args, kwargs)
        step = self._at()
        count = len(shown_of(args, kwargs))
        rows = self._rows()[sum(len(rows) for rows, _, _ in self._calls) :][:count]
        if len(rows) < count and self._calls:
            return args, self._besides(args, kwargs)  # a further call for some guidance of the pipeline's own
        if len(rows) < count:
            raise ValueError(
                f"the pipeline shows its denoiser {count} rows, but {len(rows)} are known to it: "
                f"{', '.join(self.roles) or 'none'} of {self.run.settings.images} images"
            )
        self._told, self._own = (rows, DenoiserCall(args, kwargs, count)), replace(step, rows=rows)
        self.watched.enter_context(self.module_hooks.listen(self._own))
        self.listening, self.running = False, True
        return args, apply_limited_text(kwargs, self._own)

    def on_denoised(self, output: Tensor) -> Tensor:
        """The denoiser returns."""
        self.watched.close()
        self.running = False
        step = self._own
        channels = step.latents.shape[1]
        came = self._unpack(output)
        own = came if came.shape[1] == channels else came[:, :channels]  # the rest is its own spread: learned sigma
        new = self.hooks.model_output(own, step)
        self._calls.append((*self._told, new))
        if new is not own:
            output = self._pack(new if own is came else torch.cat([new, came[:, channels:]], dim=1), output)
        self.listening = True
        return output

    def on_scheduler_step(
        self, stock: Call, noise_pred: Tensor, timestep: Any, x: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """A pipeline gives its scheduler what it made of the denoiser's output, and its latents."""
        if self._step is None:
            return stock(noise_pred, timestep, x, *args, **kwargs)
        with self._paused():
            output = torch.cat([output for _, _, output in self._calls])
            step = replace(self._step, rows=tuple(r for rows, _, _ in self._calls for r in rows), model_output=output)
            guided = self._unpack(noise_pred)
            new = self.hooks.noise_pred(guided, step)
            noise_pred = noise_pred if new is guided else self._pack(new, noise_pred)
            came = step.latents.detach()
            new = self.hooks.sample(came, step)
        torch.set_grad_enabled(False)
        self._step, self._scaled, self._calls = None, None, []
        x = self._pack(new, x) if self._replaced or new is not came else x
        found = stock(noise_pred.detach(), timestep, x, *args, **kwargs)
        if self._is_last and not self.arguments.calls_back:
            # Of a model distilled to one step PixArt takes the scheduler's second answer, predicted x0.
            taken = 1 if isinstance(self.run_model, PixArt) and self.run.settings.steps == 1 < len(found) else 0
            with self._paused():
                return (*found[:taken], self._final(found[taken]), *found[taken + 1 :])
        return found

    def on_step_end(self, pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        """A step has ended: what the caller's own callback changes comes first."""
        own = self.arguments.own_callback
        inputs = {name: values[name] for name in self.arguments.callback_inputs} if own is not None else {}
        changed: dict[str, Any] = {} if own is None else own(pipe, index, timestep, inputs)
        if self._is_last or getattr(pipe, "interrupt", False):
            latents = changed.get("latents", values["latents"])
            with self._paused():
                changed = {**changed, "latents": self._final(latents)}
        return changed

    def on_postprocess(self, stock: Call, image: Tensor, output_type: str = "pil", *args: Any, **kwargs: Any) -> Any:
        """A pipeline makes pictures of what the decoder gave; or has none made, for ``output_type="latent"``."""
        if output_type == "latent":
            return stock(image, output_type, *args, **kwargs)
        processor = self.model.pipe.image_processor
        with self._paused():
            pixels = self.hooks.image(stock(image, "pt", *args, **kwargs), self.run)
            self.run.images = self.model.pictures(pixels)
        if output_type == "pt":
            return pixels
        return processor.pt_to_numpy(pixels) if output_type == "np" else self.run.images

    def on_return(self, found: Any) -> Any:
        """The call has ended: its pictures are the run's, with what the pipeline has done to them at the very end."""
        images = getattr(found, "images", found[0] if isinstance(found, tuple) else None)
        if isinstance(images, list) and len(images) == len(self.run.images):
            self.run.images = images
        return found

    # What a hook can ask of a step.

    def predict(self, step: Step, x: Tensor, hooks: Iterable[Any], role: Role | None) -> Tensor:
        """`Step.predict`: the pipeline's own call of its denoiser, once more."""
        if not self._calls and not self.module_hooks.busy:
            raise RuntimeError(
                "in an attached pipeline step.predict repeats the pipeline's own call of its denoiser; with ControlNet "
                "that is not yet known at latents: call it at model_output or noise_pred"
            )
        replay = RepeatedDenoiser(self.model, self._scaled)
        asked = [call for call in self._calls if role is None or any(row.role == role for row in call[0])]
        with self._paused():
            parts = [
                predicting(replay, self.module_hooks, told)(replace(step, rows=rows), x, hooks, role)  # type: ignore[arg-type]
                for rows, told, _ in asked or self._calls[:1]
            ]
        return torch.cat(parts)

    def _final(self, latents: Tensor) -> Tensor:
        came = self._unpack(latents)
        self.run.latents = self.hooks.final_latents(came, self.run)
        return latents if self.run.latents is came else self._pack(self.run.latents, latents)

    def _unpack(self, x: Tensor) -> Tensor:
        """Latents of the pipeline as hooks are shown them: a picture."""
        if not isinstance(self.run_model, Flux):
            return x
        return self.run_model.unpacked(x, *self.run_model.latent_size(self.run.settings))

    def _pack(self, x: Tensor, like: Tensor) -> Tensor:
        """Latents of a hook as the pipeline goes on with them, in the form of those that they replace."""
        return (self.run_model.packed(x) if isinstance(self.run_model, Flux) else x).to(like.dtype)

    def _besides(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a network is told beside the loop's own call: of all rows, or of the conditional ones alone."""
        rows, count = self._rows(), len(shown_of(args, kwargs))
        rows = rows if len(rows) == count else tuple(row for row in rows if row.role == "cond")
        if len(rows) != count:
            return kwargs
        told = apply_limited_text(kwargs, replace(self._at(), rows=rows))
        # Some ControlNets are told zeros in the place of what is said of the whole prompt, whatever it is.
        changed = (name for name, was in kwargs.items() if isinstance(was, Tensor) and told[name] is not was)
        return told | {name: kwargs[name] for name in changed if not kwargs[name].any()}

    def _with_entering(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return with_shown(args, kwargs, self._entering(shown_of(args, kwargs)))

    def _beginning(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A step begins with the call of its denoiser, which can be repeated from then on."""
        told = DenoiserCall(args, kwargs, len(shown_of(args, kwargs)))
        shown = shown_of(args, kwargs) if self._scaled is None else self._unscaled
        self._calls = [(self._rows()[: told.rows], told, shown)]
        self._entering(shown)
        self._calls = []
        if not self._replaced:
            return args, kwargs
        rows = self._entering(shown)
        if self._scaled is not None:
            with self._paused():
                rows = self.model.pipe.scheduler.scale_model_input(rows, self._scaled)
        return told.showing(rows)

    def _entering(self, rows: Tensor) -> Tensor:
        """What the denoiser and its like are given instead of the pipeline's latents, from the step's beginning on."""
        images = self.run.settings.images
        if len(rows) % images:
            raise ValueError(f"the pipeline shows {len(rows)} rows of latents for {images} images")
        if self._step is None:
            with self._paused():
                self._begin(self._unpack(rows[:images]))
        if not self._replaced:
            return rows
        return torch.cat([self._pack(self._at().latents, rows)] * (len(rows) // images))

    def _begin(self, x: Tensor) -> None:
        self._index += 1
        if self._steps is None:
            self._fit(x)
            generator = self.arguments.get("generator")
            generator = torch.default_generator if generator is None else generator
            self._steps = self.run_model.steps(self.run, self.roles, generator, self.predict)
        made = next(self._steps)

        def step_at(x: Tensor) -> Step:
            step = made(x)
            total = getattr(self.model.pipe, "_num_timesteps", None) or step.total
            return replace(step, total=total, rows=self._rows())

        came = step_at(x)
        new = self.hooks.latents(x, came)
        self._replaced = new is not x or self.hooks.needs_grad
        self._step = step_at(new.detach().requires_grad_(self.hooks.needs_grad))
        torch.set_grad_enabled(self.hooks.needs_grad)

    def _fit(self, x: Tensor) -> None:
        """Set the run's size to that of its latents, where the arguments had not told it."""
        if tuple(x.shape[-2:]) != self.run_model.latent_size(self.run.settings):
            factor = self.model.pipe.vae_scale_factor
            height, width = (int(side) * factor for side in x.shape[-2:])
            self.run.settings = replace(self.run.settings, height=height, width=width)
            self.module_hooks = ModuleHooks.of_run(self.run_model, self.run, self.hooks)

    def _at(self) -> Step:
        if self._step is None:
            raise RuntimeError("the pipeline called its denoiser twice in one step, in a way that attach does not know")
        return self._step

    def _rows(self) -> tuple[Row, ...]:
        images = range(self.run.settings.images)
        return tuple(Row(i, self.run.prompt_of(i, role), role) for role in self.roles for i in images)

    @property
    def _is_last(self) -> bool:
        total = getattr(self.model.pipe, "_num_timesteps", None)
        scheduler = self.model.pipe.scheduler
        return self._index + 1 == (len(scheduler.timesteps) - self.run_model.first if total is None else total)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """While this is open, what is called is called by a hook, or for one, and not by the pipeline."""
        before = self.listening
        self.listening = False
        try:
            yield
        finally:
            self.listening = before
