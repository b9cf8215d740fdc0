"""`checkpointed`, `uncheckpointed`: gradient checkpointing of a network, which computes blocks again to save memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sdprobe.model.denoiser.cache_states import has_caches
from sdprobe.model.denoiser.diffusers_hooks import diffusers_hooks

CASTING = "layerwise_casting"  # the name under which diffusers registers its hook
FLAG, FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


@contextmanager
def checkpointed(*networks: Any) -> Iterator[None]:
    """While this is open, the networks' blocks are checkpointed where they support it; afterwards they are restored.

    They are not if a cache acts in the network (`enable_cache`), which would take a block that is computed again for
    its next step; nor with layerwise casting, where weights are of another dtype after their layer ran. The gradients
    are the same, and take more memory.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    able = [network for network in networks if getattr(network, "_supports_gradient_checkpointing", False)]
    able = [network for network in able if not _differs_again(network)]
    before = [(module, {name: vars(module)[name] for name in (FLAG, FUNCTION) if name in vars(module)})
              for network in able for module in network.modules()]  # fmt: skip
    try:
        for network in able:
            network.enable_gradient_checkpointing()
        yield
    finally:
        for module, own in before:
            for name in (FLAG, FUNCTION):
                vars(module).pop(name, None)
            vars(module).update(own)


@contextmanager
def uncheckpointed(*networks: nn.Module) -> Iterator[None]:
    """While this is open, no block is checkpointed: hooks of the call would not act in a block computed again."""
    before = [module for network in networks for module in network.modules() if vars(module).get(FLAG)]
    for module in before:
        setattr(module, FLAG, False)
    try:
        yield
    finally:
        for module in before:
            setattr(module, FLAG, True)


def _differs_again(network: nn.Module) -> bool:
    """Return whether a block that is computed again does something else than before."""
    return has_caches(network) or any(CASTING in diffusers_hooks(module) for module in network.modules())
