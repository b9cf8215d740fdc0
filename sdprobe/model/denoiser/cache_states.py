"""What the caches of diffusers (`enable_cache`) keep from step to step: fresh for a run, set aside for other calls.

A cache skips parts of the denoiser and returns what they returned in an earlier step. It takes every call of the
denoiser for the next step of one loop, so a call that is none must not reach what it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from diffusers.hooks import ModelHook
from torch import Tensor, nn

from sdprobe.model.denoiser.diffusers_hooks import diffusers_hooks


def has_caches(*denoisers: nn.Module) -> bool:
    """Return whether any cache acts in any of these networks."""
    return bool(_hooks(*denoisers))


def reset_caches(*denoisers: nn.Module) -> None:
    """Let all caches of networks forget what they keep.

    A pipeline does this when its call ends, for the networks that have `enable_cache`. A cache can also be applied to
    other networks (``apply_pyramid_attention_broadcast(pipe.unet, config)``), where no pipeline does it.
    """
    for module in (module for denoiser in denoisers for module in denoiser.modules()):
        if (registry := getattr(module, "_diffusers_hook", None)) is not None:
            registry.reset_stateful_hooks(recurse=False)


@contextmanager
def fresh_caches(*denoisers: nn.Module) -> Iterator[None]:
    """While this is open, the caches of networks keep only what they are shown meanwhile, and nothing afterwards."""
    reset_caches(*denoisers)
    try:
        yield
    finally:
        reset_caches(*denoisers)


@contextmanager
def caches_set_aside(*denoisers: nn.Module) -> Iterator[None]:
    """While this is open, no cache of these networks acts or learns: a call of one is computed in full."""
    hooks = _hooks(*denoisers)
    before = [dict(vars(hook.fn_ref)) for hook in hooks]
    try:
        for hook in hooks:  # what a hook without methods of its own would be registered with
            call = hook.fn_ref
            call.pre_forward, call.post_forward = (
                partial(own, hook) for own in (ModelHook.pre_forward, ModelHook.post_forward)
            )
            call.forward = call.original_forward or call.forward
        yield
    finally:
        for hook, own in zip(hooks, before, strict=True):
            vars(hook.fn_ref).update(own)


@contextmanager
def gradients_past_caches(*denoisers: nn.Module, wanted: bool) -> Iterator[None]:
    """While this is open, each call of these networks takes what its caches keep of earlier calls as constant.

    Otherwise a kept tensor would hold the graphs of all steps before it.

    Args:
        denoisers: the networks.
        wanted: whether there are gradients at all.

    Raises ValueError if gradients are wanted and FasterCache makes up the unconditional rows, which it does without.
    """
    hooks = _hooks(*denoisers) if wanted else []
    if any(getattr(hook, "low_frequency_weight_callback", None) and not hook.is_guidance_distilled for hook in hooks):
        raise ValueError(
            "a hook wants gradients, and FasterCache leaves the unconditional rows out of some steps and makes up what "
            "the denoiser would say of them, through which no gradient passes: take another cache, or none"
        )
    handles = [denoiser.register_forward_hook(_detach) for denoiser in denoisers if hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _detach(denoiser: nn.Module, args: Any, output: Any) -> None:
    for state in _states(denoiser):
        vars(state).update({name: _detached(value) for name, value in vars(state).items()})


def _hooks(*denoisers: nn.Module) -> list[Any]:
    """Return the hooks of diffusers by which caches act in networks. Some only read what others of theirs keep."""
    modules = (module for denoiser in denoisers for module in denoiser.modules())
    every = (hook for module in modules for hook in diffusers_hooks(module).values())
    return [hook for hook in every if hook._is_stateful or hasattr(hook, "state_manager")]


def _states(denoiser: nn.Module) -> list[Any]:
    """Return the objects in which caches keep something, each once: several hooks of one cache may share one."""
    stores = (own for hook in _hooks(denoiser) for own in vars(hook).values() if hasattr(own, "reset"))
    # A cache has one for each cache context, or one alone.
    states = (state for store in stores for state in getattr(store, "_state_cache", {0: store}).values())
    return list({id(state): state for state in states}.values())


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {name: _detached(own) for name, own in value.items()}
    return type(value)(map(_detached, value)) if isinstance(value, (list, tuple)) else value
