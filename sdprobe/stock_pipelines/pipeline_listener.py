"""Stock pipelines: which family each belongs to, and the places where their own code is listened to.

A pipeline's code stays its own. For as long as one call of it lasts, the few of its parts' methods by which values come
and go are answered through a listener: a scheduler's ``step``, the encoding of prompts, the finishing of pictures. All
of it is taken away when the call ends, however it ends.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from sdprobe.core.concept import Concept
from sdprobe.core.run import Settings
from sdprobe.model.base import Model
from sdprobe.model.denoiser.compiled_parts import listen_outside
from sdprobe.model.families.instruct_pix2pix import InstructPix2Pix, InstructPix2PixXL
from sdprobe.model.families.qwen_image_edit import QwenImageEdit
from sdprobe.model.loading import FAMILIES
from sdprobe.model.text.added_tokens import add_to_tokenizers

Call = Callable[..., Any]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

Caller = Literal["pipeline", "denoiser", "hook", "callback"]
"""Who calls at the moment: the pipeline, its denoiser from within, a hook, or a callback of the caller's own."""


@runtime_checkable
class KnowsCaller(Protocol):
    """Who knows who calls at the moment."""

    caller: Caller


@runtime_checkable
class PipelineListener(Protocol):
    """What is told of a call of a pipeline. Each is given what the stock code would do next, and may answer for it.

    It is told of what the pipeline itself calls; of what a callback calls, of the prompts that are encoded alone.
    """

    caller: Caller

    def on_encode_prompt(self, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_encode_in_callback(self, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_set_timesteps(self, stock: Call, *args: Any, **kwargs: Any) -> None: ...
    def on_get_timesteps(self, timesteps: Tensor) -> None: ...
    def on_prepare_latents(self, made: Any) -> None: ...
    def on_scale_model_input(self, stock: Call, rows: Tensor, timestep: Any) -> Tensor: ...
    def on_controlnet(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
    def on_denoise(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
    def on_denoised(self, output: Any) -> Any: ...
    def on_scheduler_step(self, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_decode(self, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_postprocess(self, stock: Call, *args: Any, **kwargs: Any) -> Any: ...


def attachable(pipe: Any) -> Model:
    """The model of a live pipeline, text-to-image or another of its family.

    Raises ValueError for a pipeline that cannot be attached to; the message names those that can.
    """
    if isinstance(pipe, Model):
        pipe = pipe.pipe
    if (family := family_of(pipe)) is not None:
        return family(pipe)
    names = ", ".join(attached_names())
    raise ValueError(f"attach does not know how a {type(pipe).__name__} calls its parts; it knows: {names}")


def family_of(pipe: Any) -> type[Model] | None:
    """The family that knows how a live pipeline calls its parts; None if none does.

    Raises TypeError for anything but a pipeline.
    """
    kinds = [kind.__name__ for kind in type(pipe).__mro__]
    if not hasattr(pipe, "components"):
        raise TypeError(f"attach takes a live diffusers pipeline, not {kinds[0]}")
    return next((own for own in _known() if any(kind in (*own.pipelines, *own.variants) for kind in kinds)), None)


def attached_names() -> tuple[str, ...]:
    """The names of the pipelines of which a family knows how they call their parts."""
    return tuple(name for family in _known() for name in (*family.pipelines, *family.variants))


def _known() -> tuple[type[Model], ...]:
    return (InstructPix2Pix, InstructPix2PixXL, QwenImageEdit, *FAMILIES)


def copy_for_call(model: Model, settings: Settings, words: Mapping[str, Concept], asked: Mapping[str, Any]) -> Model:
    """A copy of a model for one call of its pipeline: the same parts, and tokenizers that know the words brought.

    Args:
        model: the model.
        settings: the run's.
        words: the words that hooks bring.
        asked: what the call is asked for of how texts are read.
    """
    run_model = copy.copy(model)
    run_model.pipe = copy.copy(model.pipe)
    run_model.pipe.__class__ = getattr(type(model.pipe), "_own", type(model.pipe))
    run_model.settings, run_model.asked = settings, asked
    run_model.added_tokens = add_to_tokenizers(run_model.pipe, words, run_model.spelt)
    return run_model


@contextmanager
def intercept_calls(pipe: Any, through: Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """While this is open, calls of one pipeline go through a function, which is given the stock call.

    ``pipe(...)`` looks ``__call__`` up on the class alone, so meanwhile the pipeline is of a class of its own, derived
    from the one it was of, and named alike.
    """
    own, owner = type(pipe), threading.get_ident()

    @wraps(own.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != owner:
            raise RuntimeError("hooks are attached to this pipeline in another thread: call it from that thread")

        def stock(*args: Any, **kwargs: Any) -> Any:
            return own.__call__(self, *args, **kwargs)

        return through(wraps(own.__call__.__get__(self))(stock), args, kwargs)

    named = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__, "_own": own}
    pipe.__class__ = type(own.__name__, (own,), {**named, "__call__": __call__})
    try:
        yield
    finally:
        pipe.__class__ = own


@contextmanager
def listen_to_pipeline(model: Model, listener: PipelineListener) -> Iterator[None]:
    """While this is open, a listener is told of all that a model's pipeline does."""
    pipe = model.pipe
    encode = "encode_prompt" if hasattr(pipe, "encode_prompt") else "_encode_prompt"
    with ExitStack() as wired:

        def wire(owner: Any, name: str, **answers: Callable[..., Any]) -> None:
            if hasattr(owner, name):
                wired.enter_context(intercept_method(owner, name, listener, answers))

        wire(pipe, encode, pipeline=listener.on_encode_prompt, callback=listener.on_encode_in_callback)
        wire(pipe, "prepare_latents", pipeline=_tell_latents(listener))
        wire(pipe, "get_timesteps", pipeline=_tell_timesteps(listener))
        wire(pipe.scheduler, "set_timesteps", pipeline=listener.on_set_timesteps)
        wire(pipe, "run_safety_checker", pipeline=_hear_nothing_during(listener))
        wire(pipe.scheduler, "scale_model_input", pipeline=listener.on_scale_model_input)
        wire(pipe.scheduler, "step", pipeline=listener.on_scheduler_step)
        wire(pipe.vae, "decode", pipeline=listener.on_decode)
        finishing = "postprocess" if model.default_frames is None else "postprocess_video"
        wire(model.processor, finishing, pipeline=listener.on_postprocess)
        wire(pipe, "decode_latents", pipeline=_finish_arrays(listener))
        for network in model.denoisers_as_called.values():
            wired.enter_context(listen_outside(network, _tell_call(listener, "on_denoise"), _tell_output(listener)))
        beside = getattr(pipe, "controlnet", None)
        if beside is not None:
            tell = _tell_call(listener, "on_controlnet")
            wired.callback(beside.register_forward_pre_hook(tell, with_kwargs=True).remove)
        yield


@contextmanager
def intercept_method(
    owner: Any, name: str, listener: KnowsCaller, answers: Mapping[str, Callable[..., Any]]
) -> Iterator[None]:
    """While this is open, a method of one object is answered by a function, which is given the method first.

    Args:
        owner: the object.
        name: its method.
        listener: who knows who calls at the moment.
        answers: the function for each caller that is listened to; for others the method is what it always is.
    """
    stock, had = getattr(owner, name), name in vars(owner)

    @wraps(stock)
    def call(*args: Any, **kwargs: Any) -> Any:
        answer = answers.get(listener.caller)
        return stock(*args, **kwargs) if answer is None else answer(stock, *args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, stock)
        else:
            vars(owner).pop(name, None)


def _tell_latents(listener: PipelineListener) -> Callable[..., Any]:
    """The answer for a pipeline's ``prepare_latents``, which returns the latents, or these and others."""

    def prepare_latents(stock: Call, *args: Any, **kwargs: Any) -> Any:
        found = stock(*args, **kwargs)
        listener.on_prepare_latents(found)
        return found

    return prepare_latents


def _tell_timesteps(listener: PipelineListener) -> Callable[..., Any]:
    """The answer for a pipeline's ``get_timesteps``, which leaves out those that a picture to start from has passed."""

    def get_timesteps(stock: Call, *args: Any, **kwargs: Any) -> Any:
        found = stock(*args, **kwargs)
        listener.on_get_timesteps(found[0])
        return found

    return get_timesteps


def _finish_arrays(listener: PipelineListener) -> Callable[..., Any]:
    """The answer for the ``decode_latents`` of an older pipeline, whose answer are finished pictures, as arrays."""

    def decode_latents(stock: Call, *args: Any, **kwargs: Any) -> Any:
        made = stock(*args, **kwargs)
        if not isinstance(made, np.ndarray):
            return made
        return listener.on_postprocess(lambda image, form: torch.from_numpy(image).permute(0, 3, 1, 2), made, "np")

    return decode_latents


def _hear_nothing_during(listener: PipelineListener) -> Callable[..., Any]:
    """The answer for a method during which the listener is told of nothing."""

    def call(stock: Call, *args: Any, **kwargs: Any) -> Any:
        before, listener.caller = listener.caller, "hook"
        try:
            return stock(*args, **kwargs)
        finally:
            listener.caller = before

    return call


def _tell_call(listener: PipelineListener, name: str) -> Callable[..., Any]:
    """A hook of a network that tells of each call that the pipeline makes of it."""

    def hook(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return getattr(listener, name)(args, kwargs) if listener.caller == "pipeline" else None

    return hook


def _tell_output(listener: PipelineListener) -> Callable[..., Any]:
    """A hook of a denoiser that tells of what it returns from a call that was told of."""

    def hook(network: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if listener.caller != "denoiser":
            return output
        if isinstance(output, tuple):
            return (listener.on_denoised(output[0]), *output[1:])
        output.sample = listener.on_denoised(output.sample)
        return output

    return hook
