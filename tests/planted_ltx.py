"""LTX-Video's transformer, planted: one token and the positive places see each other, alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.planted import STRENGTH
from tests.planted_layers import zero


def plant_ltx(network: Any) -> None:
    """Blocks hand on what they are given; the norms of queries and keys leave the signs of these alone."""
    caption = network.caption_projection
    for layer in (network.proj_in, network.proj_out, network.time_embed.linear, caption.linear_1, caption.linear_2):
        zero(layer)
    network.proj_in.weight[0, 0] = 1
    caption.linear_1.weight[1, 0] = caption.linear_2.weight[1, 1] = 1
    for block in network.transformer_blocks:
        nn.init.zeros_(block.scale_shift_table)  # no shift, no scale, and gates that are shut
        attention = block.attn2
        width = attention.to_q.out_features // attention.heads
        for layer, of in ((attention.to_q, 0), (attention.to_k, 1), (attention.to_out[0], None)):
            zero(layer)
            if of is not None:
                layer.weight[::width, of] = 1
        attention.norm_k.weight.fill_(STRENGTH)
