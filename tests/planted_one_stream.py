"""Lumina 2 and Z-Image, planted, whose attention reaches the picture; see `tests.planted_outputs`."""

from __future__ import annotations

from typing import Any

import torch

from tests.planted_layers import zero

READ, ADDED = 1e-4, 0.2
"""How much is read, so little that a norm does not take its size away, and how the norm enlarges it."""


def let_through_one_stream(network: Any) -> None:
    """Let what a place reads of the marked token be added to a feature, which the latents then are."""
    if hasattr(network, "norm_out"):
        zero(network.norm_out.linear_1)
        last = network.norm_out.linear_2
    else:
        final = network.all_final_layer["2-1"]
        zero(final.adaLN_modulation[1])
        last = final.linear
    zero(last)
    last.weight[:, 2] = -1  # the pipeline turns the sign
    for block in network.layers:
        is_lumina = hasattr(block, "norm2")
        attention = block.attn if is_lumina else block.attention
        zero(attention.to_v)
        attention.to_v.weight[:, 1] = 1
        zero(attention.to_out[0])
        attention.to_out[0].weight[2] = READ / attention.to_out[0].in_features
        torch.nn.init.constant_((block.norm2 if is_lumina else block.attention_norm2).weight, ADDED)
        gates = block.norm1.linear if is_lumina else block.adaLN_modulation[0]
        gates.bias.view(4, -1)[1] = 10  # the second of four is that of attention, whose tanh is then 1
