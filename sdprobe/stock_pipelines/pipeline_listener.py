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
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from sdprobe.core.concept import Concept
from sdprobe.core.run import Settings
from sdprobe.model.base import Model
from sdprobe.model.families.instruct_pix2pix import InstructPix2Pix
from sdprobe.model.loading import FAMILIES
from sdprobe.model.text.added_tokens import add_to_tokenizers

VARIANTS = {
    "StableDiffusionPipeline": (
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
    ),
    "StableDiffusionXLPipeline": (
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
    ),
    "StableDiffusion3Pipeline": (
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline",
    ),
    "FluxPipeline": ("FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlNetPipeline"),
    "PixArtAlphaPipeline": (),
    "PixArtSigmaPipeline": (),
}
"""By the pipeline that a family is of: its other pipelines that can be attached to."""

Call = Callable[..., Any]


@runtime_checkable
class PipelineListener(Protocol):
    """What is told of a call of a pipeline. Each is given what the stock code would do next, and may answer for it."""

    listening: bool
    running: bool

    def on_encode_prompt(self, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_get_timesteps(self, timesteps: Tensor) -> None: ...
    def on_scale_model_input(self, stock: Call, rows: Tensor, timestep: Any) -> Tensor: ...
    def on_controlnet(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
    def on_denoise(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
    def on_denoised(self, output: Tensor) -> Tensor: ...
    def on_scheduler_step(
        self, stock: Call, noise_pred: Tensor, timestep: Any, x: Tensor, *args: Any, **kwargs: Any
    ) -> Any: ...
    def on_postprocess(self, stock: Call, image: Tensor, *args: Any, **kwargs: Any) -> Any: ...


def attachable(pipe: Any) -> Model:
    """The model of a live pipeline, text-to-image or another of its family.

    Raises ValueError for a pipeline that cannot be attached to; the message names those that can.
    """
    if isinstance(pipe, Model):
        pipe = pipe.pipe
    kinds = [kind.__name__ for kind in type(pipe).__mro__]
    if not hasattr(pipe, "components"):
        raise TypeError(f"attach takes a live diffusers pipeline, not {kinds[0]}")
    known: tuple[type[Model], ...] = (InstructPix2Pix, *FAMILIES)
    for family in known:
        if any(kind in _attached_by(family) for kind in kinds):
            return family(pipe)
    names = ", ".join(name for family in known for name in _attached_by(family))
    raise ValueError(f"attach does not know how a {kinds[0]} calls its parts; it knows: {names}")


def _attached_by(family: type[Model]) -> tuple[str, ...]:
    return tuple(name for own in family.pipelines for name in (own, *VARIANTS.get(own, ())))


def copy_for_call(model: Model, settings: Settings, words: Mapping[str, Concept]) -> Model:
    """A copy of a model for one call of its pipeline: the same parts, and tokenizers that know the words brought."""
    run_model = copy.copy(model)
    run_model.pipe = copy.copy(model.pipe)
    run_model.pipe.__class__ = getattr(type(model.pipe), "_own", type(model.pipe))
    run_model.settings = settings
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

        def wire(owner: Any, name: str, answer: Callable[..., Any]) -> None:
            if hasattr(owner, name):
                wired.enter_context(intercept_method(owner, name, answer, listener))

        wire(pipe, encode, listener.on_encode_prompt)
        wire(pipe, "get_timesteps", _answer_get_timesteps(listener))
        wire(pipe, "run_safety_checker", _answer_unheard(listener))
        wire(pipe.scheduler, "scale_model_input", listener.on_scale_model_input)
        wire(pipe.scheduler, "step", listener.on_scheduler_step)
        wire(pipe.image_processor, "postprocess", listener.on_postprocess)
        network, beside = getattr(pipe, model.network), getattr(pipe, "controlnet", None)
        wired.callback(network.register_forward_pre_hook(_told(listener, "on_denoise"), with_kwargs=True).remove)
        wired.callback(network.register_forward_hook(_returned(listener)).remove)
        if beside is not None:
            wired.callback(beside.register_forward_pre_hook(_told(listener, "on_controlnet"), with_kwargs=True).remove)
        yield


@contextmanager
def intercept_method(owner: Any, name: str, answer: Callable[..., Any], listener: PipelineListener) -> Iterator[None]:
    """While this is open, a method of one object is answered by a function, which is given the method first.

    Not while the listener is not listening: then it is a hook that calls, not the pipeline.
    """
    stock, had = getattr(owner, name), name in vars(owner)

    @wraps(stock)
    def call(*args: Any, **kwargs: Any) -> Any:
        return answer(stock, *args, **kwargs) if listener.listening else stock(*args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, stock)
        else:
            vars(owner).pop(name, None)


def _answer_get_timesteps(listener: PipelineListener) -> Callable[..., Any]:
    """The answer for a pipeline's ``get_timesteps``, which leaves out those that a picture to start from has passed."""

    def get_timesteps(stock: Call, *args: Any, **kwargs: Any) -> Any:
        found = stock(*args, **kwargs)
        listener.on_get_timesteps(found[0])
        return found

    return get_timesteps


def _answer_unheard(listener: PipelineListener) -> Callable[..., Any]:
    """The answer for a method during which the listener is told of nothing."""

    def call(stock: Call, *args: Any, **kwargs: Any) -> Any:
        listener.listening = False
        try:
            return stock(*args, **kwargs)
        finally:
            listener.listening = True

    return call


def _told(listener: PipelineListener, name: str) -> Callable[..., Any]:
    def hook(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return getattr(listener, name)(args, kwargs) if listener.listening else None

    return hook


def _returned(listener: PipelineListener) -> Callable[..., Any]:
    def hook(network: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not listener.running:
            return output
        if isinstance(output, tuple):
            return (listener.on_denoised(output[0]), *output[1:])
        output.sample = listener.on_denoised(output.sample)
        return output

    return hook
