"""The planting of Krea 2's network; see `tests.planted_families`."""

from __future__ import annotations

from typing import Any

from tests.planted import STRENGTH
from tests.planted_layers import feature, zero


def plant_krea2(network: Any) -> None:
    """Blocks add nothing, and every joint attention joins the mark to the sign of the latents.

    The first features of a head are turned by the position in time alone, which is the same for all tokens.
    """
    feature(network.img_in, 0, slice(0, 4))  # the four places of a patch are four channels of the packed latents
    fusion = network.text_fusion
    for block in (*fusion.layerwise_blocks, *fusion.refiner_blocks):
        zero(block.attn.to_out[0])
        zero(block.ff.down)
    feature(fusion.projector, 0, 0)  # of the layers of a token, the first
    feature(network.txt_in.linear_1, 1, 0)
    feature(network.txt_in.linear_2, 1, 1)
    zero(network.time_mod_proj)  # no shift, no scale, and gates that are shut
    for block in network.transformer_blocks:
        for layer, first in ((block.attn.to_q, 0), (block.attn.to_k, 1)):
            zero(layer)
            layer.weight[0 :: block.attn.head_dim, first] = 1
            layer.weight[1 :: block.attn.head_dim, 1 - first] = 1
        block.attn.norm_k.weight.fill_(STRENGTH)
