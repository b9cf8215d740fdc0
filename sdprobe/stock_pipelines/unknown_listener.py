"""Where a pipeline that no family knows is listened to: its networks, schedulers and ``prepare_latents``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, Protocol, runtime_checkable

from torch import nn

from sdprobe.model.denoiser.compiled_parts import listen_outside
from sdprobe.model.unknown.unknown_pipeline import UnknownPipeline
from sdprobe.stock_pipelines.pipeline_listener import Call, Caller, intercept_method


@runtime_checkable
class UnknownListener(Protocol):
    """What is told of a call of a pipeline that no family knows."""

    caller: Caller

    def on_set_timesteps(self, scheduler: Any, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_get_timesteps(self, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_prepare_latents(self, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_scheduler_step(self, scheduler: Any, stock: Call, *args: Any, **kwargs: Any) -> Any: ...
    def on_copied_scheduler(self) -> None: ...
    def on_call(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None: ...
    def on_returned(self) -> None: ...


@contextmanager
def listen_to_unknown(model: UnknownPipeline, listener: UnknownListener) -> Iterator[None]:
    """While this is open, a listener is told of what a pipeline does of which diffusers' pipelines do the same."""
    pipe, scheduler = model.pipe, model.scheduler
    with ExitStack() as wired:
        # A pipeline made of others prepares its latents in one of these.
        within = [own for own in vars(pipe).values() if hasattr(own, "components") and callable(own)]
        for owner in (pipe, *(own for own in within if getattr(own, "scheduler", None) is scheduler)):
            for name, answer in (
                ("prepare_latents", listener.on_prepare_latents),
                ("get_timesteps", listener.on_get_timesteps),
            ):
                if hasattr(owner, name):
                    wired.enter_context(intercept_method(owner, name, listener, {"pipeline": answer}))
        for own in {id(own): own for own in model.schedulers.values()}.values():
            wired.enter_context(intercept_scheduler(own, listener))
        for part in model.networks:
            before, after = _tell_call(listener, part), _tell_returned(listener)
            wired.enter_context(listen_outside(getattr(pipe, part), before, after))
        yield


@contextmanager
def intercept_scheduler(scheduler: Any, listener: UnknownListener) -> Iterator[None]:
    """While this is open, a listener is told of the steps of a scheduler.

    Pipelines copy their scheduler, and a copy has to step by itself: so the scheduler is of a class of its own
    meanwhile, derived from the one it was of and named alike, which leaves copies alone.
    """
    own, answers = type(scheduler), {"step": listener.on_scheduler_step, "set_timesteps": listener.on_set_timesteps}
    is_open = [True]

    def answered(name: str, method: Callable[..., Any], answer: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_open or listener.caller != "pipeline":
                return method(self, *args, **kwargs)
            if self is not scheduler:
                if name == "step":
                    listener.on_copied_scheduler()
                return method(self, *args, **kwargs)
            return answer(self, partial(method, self), *args, **kwargs)

        return call

    named: dict[str, Any] = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    calls = {name: answered(name, getattr(own, name), answer) for name, answer in answers.items() if hasattr(own, name)}
    scheduler.__class__ = type(own.__name__, (own,), {**named, **calls})
    try:
        yield
    finally:
        is_open.clear()
        scheduler.__class__ = own


def _tell_call(listener: UnknownListener, part: str) -> Callable[..., Any]:
    """A hook of a network that tells of each call that the pipeline makes of it."""

    def hook(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if listener.caller == "pipeline":
            listener.on_call(part, args, kwargs)

    return hook


def _tell_returned(listener: UnknownListener) -> Callable[..., Any]:
    """A hook of a network that tells of the end of a call that was told of."""

    def hook(network: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if listener.caller == "denoiser":
            listener.on_returned()
        return output

    return hook
