"""`diffusers_hooks`: what diffusers has registered on a module: caches, offloading, casting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def diffusers_hooks(module: nn.Module) -> Mapping[str, Any]:
    """Return the hooks of diffusers on a module, by the names under which it registers them."""
    registry = getattr(module, "_diffusers_hook", None)
    return {} if registry is None else registry.hooks
