"""`CompiledParts`: the parts of a denoiser that `torch.compile` made, and how hooks within them are called.

Compiled code calls no hook that was added after it was compiled. So while hooks look inside a compiled part, this part
runs as it was written, and its other parts stay compiled. Its numbers are then those of the denoiser without
`torch.compile`, which rounds differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

WRAPPED = "_orig_mod"  # the name under which a compiled module holds the one it was given


def as_written(network: Any) -> Any:
    """Return a network without what `torch.compile` wraps around it."""
    return getattr(network, WRAPPED, network)


def names_as_written(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Return every module by its dotted name, without the parts of names that `torch.compile` adds."""
    found = {}
    for name, module in denoiser.named_modules():
        if own := _as_written(name):
            found[own] = module  # of a compiled module and the one within it, the latter comes last
    return found


class CompiledParts:
    """Compiled parts of a denoiser, by their dotted names; ``""`` is the whole denoiser.

    Args:
        parts: for each name the modules that have to be told to run as they were written.
    """

    def __init__(self, parts: Mapping[str, Sequence[nn.Module]]) -> None:
        self.parts = parts

    @classmethod
    def of(cls, denoiser: nn.Module) -> CompiledParts:
        """Return every compiled part of a network, which is compiled as a whole, in regions, or not at all."""
        found: dict[str, list[nn.Module]] = {}
        for name, module in denoiser.named_modules():
            if WRAPPED in module._modules or vars(module).get("_compiled_call_impl") is not None:
                found.setdefault(_as_written(name), []).append(module)
        return cls(found)

    def around(self, names: Iterable[str]) -> CompiledParts:
        """Return those that are, or contain, a module of these names."""
        within = {".".join(parts[:n]) for name in names if (parts := name.split(".")) for n in range(len(parts) + 1)}
        return CompiledParts({name: own for name, own in self.parts.items() if name in within})

    @contextmanager
    def run_as_written(self) -> Iterator[None]:
        """While this is open, these parts run without `torch.compile`."""
        before: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for module in (module for own in self.parts.values() for module in own):
                held = vars(module)
                if WRAPPED in module._modules:
                    before.append((held, "forward", held["forward"]))
                    held["forward"] = getattr(module, WRAPPED).__call__
                if held.get("_compiled_call_impl") is not None:
                    before.append((held, "_compiled_call_impl", held["_compiled_call_impl"]))
                    held["_compiled_call_impl"] = None
            yield
        finally:
            for held, name, was in before:
                held[name] = was


def _as_written(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != WRAPPED)


@contextmanager
def listen_outside(network: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[None]:
    """While this is open, two functions are called around each call of a network, outside of what is compiled.

    Args:
        network: the network; compiled as a whole, or not.
        before: gets the network and the call's ``args`` and ``kwargs``; returns others, or None.
        after: gets the network, ``args`` and the output; returns the output.
    """
    held = vars(network)
    name = "forward" if WRAPPED in network._modules else "_compiled_call_impl"
    compiled: Callable[..., Any] | None = held.get(name)

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = before(network, args, kwargs) or (args, kwargs)
        now = held[name]  # `before` may have opened `CompiledParts.run_as_written`
        run: Any = compiled if now is call else network._call_impl if now is None else now
        return after(network, args, run(*args, **kwargs))

    with ExitStack() as opened:
        if compiled is None:
            opened.callback(network.register_forward_pre_hook(before, with_kwargs=True).remove)
            opened.callback(network.register_forward_hook(after).remove)
        else:
            opened.callback(held.__setitem__, name, compiled)
            held[name] = call
        yield
