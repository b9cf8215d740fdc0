"""Parameters without gradients: frozen from the first time that a run wants gradients, until it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_open: WeakKeyDictionary[nn.Module, FrozenParameters] = WeakKeyDictionary()


class FrozenParameters:
    """The parameters of a pipeline, which can be frozen once and are restored in the end.

    Args:
        pipe: the pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        parts = (part for part in pipe.components.values() if isinstance(part, nn.Module))
        modules = {module: None for part in parts for module in part.modules()}
        self.places = [(module, name) for module in modules for name, _ in module.named_parameters(recurse=False)]
        self.every = [getattr(module, name) for module, name in self.places]
        self.learning = [parameter.requires_grad for parameter in self.every]
        self.collected = [parameter.grad for parameter in self.every]
        self.frozen = False
        for parameter, own in zip(self.every, self.collected, strict=True):
            if own is not None and parameter.requires_grad:
                parameter.grad = None

    def freeze(self) -> None:
        """Take ``requires_grad`` from every parameter.

        Raises ValueError for parameters that were made in inference mode.
        """
        if any(parameter.is_inference() for parameter in self.every):
            raise ValueError(
                "a hook wants gradients, and this pipeline was built under torch.inference_mode(), whose parameters no "
                "gradient passes: build it outside"
            )
        for parameter, learning in zip(self.every, self.learning, strict=True):
            if learning and not self.frozen:
                parameter.requires_grad_(False)
        self.frozen = True

    def thaw(self) -> None:
        """Give every parameter its ``requires_grad`` back."""
        for (module, name), own in zip(self.places, self.learning, strict=True):
            if own:
                getattr(module, name).requires_grad_(True)
        self.frozen = False

    def restore(self) -> None:
        """Give every parameter its ``requires_grad`` and its gradient back."""
        before = zip(self.places, self.every, self.learning, self.collected, strict=True)
        for (module, name), parameter, own in ((place, old, grad) for place, old, learning, grad in before if learning):
            now = getattr(module, name)  # sequential offloading has put others in the places of those that were there
            if self.frozen:
                now.requires_grad_(True)
            if now is parameter and now.grad is not own:
                now.grad = own


@contextmanager
def freeze_parameters(pipe: Any, denoiser: nn.Module, wanted: bool, until_end: bool = True) -> Iterator[None]:
    """While this is open, no parameter gets a gradient.

    Within a run that has opened it already, parameters stay frozen until the run ends: what is checkpointed is computed
    again in the backward pass, and must then find the parameters as they were.

    Args:
        pipe: the pipeline.
        denoiser: its denoiser, by which the run that is under way is known.
        wanted: whether there are gradients at all. If not, parameters keep ``requires_grad``: torch chooses other
            kernels for weights without it, and the last bits of a small image can depend on that.
        until_end: whether, within a run, they stay frozen until it ends. If not, they are only while this is open: for
            an observer, whose backward pass ends before, and which must not change the last bits.
    """
    if (outer := _open.get(denoiser)) is not None:
        thawed = wanted and not outer.frozen and not until_end
        if wanted:
            outer.freeze()
        try:
            yield
        finally:
            if thawed:
                outer.thaw()
        return
    own = _open[denoiser] = FrozenParameters(pipe)
    try:
        if wanted:
            own.freeze()
        yield
    finally:
        del _open[denoiser]
        own.restore()
