"""HunyuanVideo's transformer, planted: one token and the positive patches see each other, alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.planted import STRENGTH
from tests.planted_layers import feature, zero

FIRST, SECOND = 2, 3
"""Where in a head the two features stand: the third and fourth are turned least from frame to frame."""


def plant_hunyuan_video(network: Any) -> None:
    """Blocks hand on what they are given; the norms of queries and keys leave the signs of these alone."""
    for layer in (network.x_embedder.proj, network.proj_out, network.norm_out.linear):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    network.x_embedder.proj.weight[0, 0] = 1  # the sum of the first channel over a patch
    feature(network.context_embedder.proj_in, 1, 0)
    for block in network.context_embedder.token_refiner.refiner_blocks:
        zero(block.norm_out.linear)  # gates that are shut
    for block in network.transformer_blocks:
        zero(block.norm1.linear)
        zero(block.norm1_context.linear)
        _plant_attention(block.attn, ("to_q", "add_q_proj"), ("to_k", "add_k_proj"), ("norm_k", "norm_added_k"))
    for block in network.single_transformer_blocks:
        zero(block.norm.linear)
        _plant_attention(block.attn, ("to_q",), ("to_k",), ("norm_k",))


def _plant_attention(module: Any, queries: tuple[str, ...], keys: tuple[str, ...], norms: tuple[str, ...]) -> None:
    width = module.to_q.out_features // module.heads
    for names, of_first, of_second in ((queries, 0, 1), (keys, 1, 0)):
        for layer in (getattr(module, name) for name in names):
            zero(layer)
            layer.weight[FIRST::width, of_first] = 1
            layer.weight[SECOND::width, of_second] = 1
    for name in norms:
        getattr(module, name).weight.fill_(STRENGTH)
