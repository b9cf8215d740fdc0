"""Layers and attention modules of planted networks; see `tests.planted_families`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tests.planted import STRENGTH


def plant_joint(module: Any) -> None:
    """Queries and keys of a module of joint attention: score(x → y) = strength · (x₀ y₁ + x₁ y₀)."""
    width = module.to_q.out_features // module.heads
    for projected, norm_name in ((("to_q", "add_q_proj"), None), (("to_k", "add_k_proj"), "norm_k")):
        of_first, of_second = (0, 1) if norm_name is None else (1, 0)
        strength = 1.0 if norm_name is None or getattr(module, norm_name) is not None else STRENGTH
        for layer in (getattr(module, name, None) for name in projected):
            if layer is not None:
                zero(layer)
                layer.weight[0::width, of_first] = strength
                layer.weight[1::width, of_second] = strength
    for norm in (getattr(module, name, None) for name in ("norm_k", "norm_added_k")):
        if norm is not None:
            norm.weight.fill_(STRENGTH)  # it takes the strength of what it is given away


def queries_and_keys(module: Any) -> tuple[Tensor, Tensor]:
    """The weights that make queries and keys, which may be the first parts of one layer's."""
    if hasattr(module, "to_qkv_mlp_proj"):
        query, key = module.to_qkv_mlp_proj.weight[: 2 * module.inner_dim].chunk(2)
        return query, key
    return module.to_q.weight, module.to_k.weight


def feature(layer: nn.Linear, to: int, of: int | slice) -> None:
    """One feature of the output is one of the input, or the sum of some; everything else is zero."""
    zero(layer)
    layer.weight[to, of] = 1


def zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
