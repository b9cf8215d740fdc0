"""A Lumina 2 whose attention is planted: one token and the positive patches see each other, alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.planted import STRENGTH


def plant_lumina2(network: Any) -> None:
    """Hand on the sign of a patch in the first feature, and the mark of a token in the second, past every block."""
    network.rope_embedder.freqs_cis = [torch.ones_like(own) for own in network.rope_embedder.freqs_cis]
    _feature(network.x_embedder, 0, slice(0, None, network.config.in_channels))
    _feature(network.time_caption_embed.caption_embedder[1], 1, 0)
    for block in (*network.context_refiner, *network.noise_refiner, *network.layers):
        for gate in (block.norm2, block.ffn_norm2):  # what a block would add goes through them
            nn.init.zeros_(gate.weight)
        if block.modulation:
            _zero(block.norm1.linear)
        _plant(block.attn)


def _plant(attention: Any) -> None:
    """Make query and key of the two features: score(x → y) = strength (x₀ y₁ + x₁ y₀)."""
    width = attention.to_q.out_features // attention.heads
    for layer, of_first, of_second in ((attention.to_q, 0, 1), (attention.to_k, 1, 0)):
        _zero(layer)
        layer.weight[0::width, of_first] = 1
        layer.weight[1::width, of_second] = 1
    attention.norm_k.weight.fill_(STRENGTH)


def _feature(layer: nn.Linear, to: int, of: int | slice) -> None:
    _zero(layer)
    layer.weight[to, of] = 1


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
