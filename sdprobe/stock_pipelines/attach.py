"""`attach`: the points of the loop, while a stock pipeline of diffusers runs its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.given_hooks import Given
from sdprobe.core.registry import resolve
from sdprobe.core.run import Run
from sdprobe.model.base import Model
from sdprobe.model.denoiser.cache_states import gradients_past_caches
from sdprobe.model.families.instruct_pix2pix import ThreeWayGuidance
from sdprobe.model.unknown.modular_pipeline import is_modular
from sdprobe.model.unknown.unknown_pipeline import UnknownPipeline
from sdprobe.stock_pipelines.call_arguments import CallArguments
from sdprobe.stock_pipelines.interrupt import interruptible
from sdprobe.stock_pipelines.modular_call import ModularCall, modular_arguments, naming_task_pipeline
from sdprobe.stock_pipelines.pipeline_call import PipelineCall
from sdprobe.stock_pipelines.pipeline_listener import (
    attachable,
    copy_for_call,
    family_of,
    intercept_calls,
    listen_to_pipeline,
)
from sdprobe.stock_pipelines.prompts_read import read_prompts
from sdprobe.stock_pipelines.shown_rows import ShownRows
from sdprobe.stock_pipelines.told_rows import RowsOfBatch
from sdprobe.stock_pipelines.unknown_call import call_unknown


@contextmanager
def attach(pipe: Any, hooks: Given = (), *, rows: RowsOfBatch | None = None) -> Iterator[Run]:
    """Let hooks act and look while a stock pipeline of diffusers runs its own loop.

    The pipeline's code is not replaced: inside the ``with`` it is called as ever, and the points are passed as in
    `sdprobe.sample`, in the same order and with the same values. With no hook that changes anything its result is the
    same to the last bit. When the ``with`` is left, the pipeline is as it was, whatever was raised.

    >>> import sdprobe
    >>> import torch
    >>> pipe = sdprobe.load().pipe  # or StableDiffusionPipeline.from_pretrained(...)
    >>> pipe.set_progress_bar_config(disable=True)
    >>> maps = sdprobe.AttentionMaps()
    >>> with sdprobe.attach(pipe, hooks=[maps]) as run:
    ...     found = pipe("a red circle", num_inference_steps=4, generator=torch.Generator().manual_seed(0))
    >>> run
    Run('a red circle', 1 image of 64×64, 4 steps of DDIMScheduler, guidance 7.5, seed 0)
    >>> run[maps].heat_map("circle"), run.images == found.images
    (HeatMap('circle', 16×16), True)

    What is special to it:

    - A run is one call: a second call inside the ``with`` is refused.
    - Rows are what the pipeline shows its denoiser, call by call: no ``"uncond"`` without guidance, nor after a
      callback has cut it off; ``"cond"``, ``"image"`` and ``"uncond"``, in this order, in InstructPix2Pix. Where Flux
      is given ``true_cfg_scale`` it calls its denoiser twice a step, and ``model_output`` is passed twice, each time
      with its own rows. `run.roles` are those that the run begins with.
    - Given ``prompt_embeds`` in place of a text, hooks that ask for a word say that the words are not known.
    - Words are those that the denoiser is shown: of each text encoder, those of the text it is given (``prompt_2``,
      ``prompt_3``), as far as ``max_sequence_length`` lets it read. Flux shows its denoiser ``prompt_2``; in Stable
      Diffusion 3 ``prompt`` and ``prompt_2`` share the first places, and ``prompt_3`` has the others; in SDXL both
      texts share all places. Where two texts share places, a word of either stands at its place.
    - ``run.seed`` is known where the pipeline was given a new generator, or one for each image.
    - A callback of one's own is called as ever, and what it changes is what the next point is shown. What it calls by
      itself, such as the denoiser or an encoder, passes no hook and is not counted in `run.coverage`.
    - A callback may give the pipeline another prompt (``prompt_embeds``). From there on rows are of that prompt: of the
      text, where the callback had ``pipe.encode_prompt`` make it, else of embeddings whose words are not known. Hooks
      at the points of the text do not act on it, limited or not. `run.prompts` are those that the run begins with, and
      `AttentionMaps` give a word's map over the steps whose prompt holds it.
    - ``step.stop()`` sets the pipeline's own ``_interrupt``; a pipeline that has none, as those of PixArt and
      InstructPix2Pix, refuses.
    - ``step.leave_out("uncond")`` takes rows out of the pipeline's call of its denoiser. Where the pipeline calls its
      denoiser for each role by itself, as Flux does, no call can be left out, and it is refused.
    - ``step.predict`` repeats the pipeline's own call; with ControlNet only for the loop's own latents.

    A pipeline that no family knows (pictures, video, sound, 3-D; or one of your own) has the points ``attention`` and
    ``activation`` and, where it has a scheduler, ``latents`` and ``noise_pred``; ``run.coverage`` says what is not
    known of it. What is special to it:

    - Modules are those of the parts that are called in the loop: ``transformer``, ``unet``, ``prior``, ``decoder`` and
      their like. Those of the first have their plain names, those of a further one its name before them, as in
      ``"transformer_2.blocks.0.attn1"``; so have text encoders, the autoencoder and all other parts, for which a
      pattern begins with the part: ``"text_encoder.*"``, ``"vae.decoder.*"``.
    - The kind of attention is ``"cross"``, ``"self"`` or ``"joint"`` where the module says so, ``"cross"`` where keys
      and queries are not equally many, else ``"unknown"``. Where a picture stands among positions is not known, so
      there are no heat maps.
    - Rows are ``"unlabelled"``, unless ``rows=`` says what they are. The words of a prompt are not known.
    - ``latents`` passes when latents are made: by ``prepare_latents``, and by each step of the scheduler. Where a
      pipeline changes them afterwards, ``run.coverage`` says so, and a transform that had changed them is refused.
    - In a modular pipeline ``latents`` passes where a block of its loop begins a step with them.
    - Transforms at other points are refused before anything runs; an observer is called at the points that there are.

    Args:
        pipe: a live pipeline, also a modular one. All points are there in text-to-image of any family that
            `sdprobe.load` knows, and in those that the page on families lists: image-to-image, inpainting, ControlNet,
            Kontext, Fill, perturbed-attention guidance and others; in InstructPix2Pix.
        hooks: hooks, `Hooks` and registered names, as in `sdprobe.sample`.
        rows: what the rows are of a pipeline that no family knows: a function of the size of a batch that returns, for
            each of its entries, the number of its image and its role, ``[(0, "uncond"), (0, "cond")]``; or `Row`
            objects. A function of two arguments is also given the number of the call in its step, from 0. None says
            nothing.

    Yields:
        The run, which the call fills. What hooks recorded is read from it, inside the ``with`` or after.

    Raises:
        ValueError: for hooks at points that cannot be had, for rows that ``rows`` does not tell, and for ``rows`` of a
            pipeline that a family knows.
        TypeError: for anything but a pipeline.
        RuntimeError: for a second call; for a run of this model, or a further `attach`, inside the ``with``.
    """
    pipe = pipe.pipe if isinstance(pipe, Model) else pipe
    unknown = pipe if isinstance(pipe, UnknownPipeline) else None  # one of which a family is not asked
    model: Any
    past: Callable[..., Any]
    if unknown is not None or (family := family_of(pipe)) is None:
        model = unknown or UnknownPipeline(pipe)
        modular = is_modular(model.pipe)
        past = partial(call_unknown, rows=rows, made_by=ModularCall if modular else None)
        read = modular_arguments if modular else CallArguments.of
    elif rows is None:
        model, past, read = attachable(pipe), _call_past_hooks, CallArguments.of
    else:
        raise ValueError(
            f"rows= says what the rows are of a pipeline that no family knows, and {family.__name__} knows those of "
            f"{type(pipe).__name__}: leave it out"
        )
    stack, by_name = resolve(hooks)
    run = AttachedRun()

    def through(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if run.begun:
            raise RuntimeError(
                "the pipeline was called a second time, but what was attached is for one call, which the run holds: "
                "write another `with sdprobe.attach(...)` for each"
            )
        run.begun = True
        with naming_task_pipeline(model.pipe):
            return past(model, stack, by_name, run, call, read(model.pipe, args, kwargs))

    with model.lock(), intercept_calls(model.pipe, through):
        yield run


class AttachedRun(Run):
    """A run that a call of a pipeline fills."""

    attached = True

    def __init__(self) -> None:
        self.begun = False

    def fill(self, *said: Any) -> None:
        """What is known before the pipeline begins."""
        super().__init__(*said)

    def __getattr__(self, name: str) -> Any:
        if "settings" in vars(self):
            return super().__getattr__(name)
        raise AttributeError(f"this run has no {name!r} yet: call the pipeline, inside the with")

    def __repr__(self) -> str:
        return super().__repr__() if "settings" in vars(self) else "Run(the pipeline has not been called yet)"


def _call_past_hooks(
    model: Model,
    stack: Hooks,
    by_name: Mapping[str, Hook],
    run: AttachedRun,
    call: Callable[..., Any],
    arguments: CallArguments,
) -> Any:
    """One call of the pipeline, past the hooks."""
    if "token_embeds" in stack.grad_leaves:
        raise ValueError(
            "a stock pipeline encodes its prompts once, without gradients, so token_embeds is no leaf in it: ask for "
            "prompt_embeds, or run the hook by sdprobe.sample"
        )
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(model, ThreeWayGuidance):
            model.image_guidance_scale = arguments.get("image_guidance_scale")
        model.asked = {name: arguments.get(name) for name in model.guiding}
        settings = arguments.settings(model)
        run_model = copy_for_call(model, settings, stack.brings, model.asked_of(arguments.bound.arguments))
        given, count = arguments.bound.arguments, len(settings.prompt)
        prompts = read_prompts(run_model, given, "prompt")
        run.fill(model, settings, prompts, read_prompts(run_model, given, "negative_prompt", count))
        run.names = dict(by_name)
        rows = ShownRows(model, run, arguments)
        with (
            run_model.add_tokens(),
            stack.open(run) as hooks,
            model.freeze_parameters(hooks.needs_grad),
            gradients_past_caches(*model.denoisers.values(), wanted=hooks.needs_grad),
        ):
            pipeline_call = PipelineCall(model, run_model, run, hooks, arguments, rows)
            stopping = interruptible(model.pipe, run.control)
            with stopping, listen_to_pipeline(model, pipeline_call), pipeline_call.watched:
                args, kwargs = arguments.replace_callbacks(pipeline_call.on_step_end, pipeline_call.call_aside)
                return pipeline_call.on_return(call(*args, **kwargs))
