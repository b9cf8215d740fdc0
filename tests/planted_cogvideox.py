"""CogVideoX's transformer, planted: one token and the positive patches see each other, alone."""

from __future__ import annotations

from typing import Any

from tests.planted import STRENGTH
from tests.planted_layers import zero

FIRST, SECOND = 2, 3
"""Where in a head the two features stand: the third and fourth are turned least from frame to frame."""


def plant_cogvideox(network: Any) -> None:
    """Blocks hand on what they are given; the norms of queries and keys leave the signs of these alone."""
    embed = network.patch_embed
    for layer in (embed.proj, embed.text_proj, network.proj_out):
        zero(layer)
    embed.proj.weight[0].view(network.config.in_channels, -1)[0] = 1  # the sum of the first channel over a patch
    embed.text_proj.weight[1, 0] = 1
    if hasattr(embed, "pos_embedding"):
        embed.pos_embedding.zero_()
    for block in network.transformer_blocks:
        zero(block.norm1.linear)  # no shift, no scale, and gates that are shut
        zero(block.norm2.linear)
        attention = block.attn1
        width = attention.to_q.out_features // attention.heads
        for layer, of_first, of_second in ((attention.to_q, 0, 1), (attention.to_k, 1, 0)):
            zero(layer)
            layer.weight[FIRST::width, of_first] = 1
            layer.weight[SECOND::width, of_second] = 1
        attention.norm_k.weight.fill_(STRENGTH)
