"""Wan's transformers, planted: one token and the positive patches see each other, alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.planted import STRENGTH


def plant_wan(network: Any) -> None:
    """Blocks hand on what they are given; the mark of a token reaches the keys through the text's own projection.

    The norms of queries and keys keep their signs alone.
    """
    embedder = network.condition_embedder
    for layer in (network.patch_embedding, network.proj_out, embedder.time_proj):
        _zero(layer)
    network.patch_embedding.weight[0, 0] = 1  # the first feature is the sum of the first channel over a patch
    for layer, of in ((embedder.text_embedder.linear_1, 0), (embedder.text_embedder.linear_2, 1)):
        _zero(layer)
        layer.weight[1, of] = 1
    blocks = [*network.blocks, *getattr(network, "vace_blocks", ())]
    for layer in (own for name, own in network.named_modules() if name.endswith(("vace_patch_embedding", "proj_in"))):
        _zero(layer)  # the blocks that read another video begin with the tokens of the one that is made
    for block in blocks:
        nn.init.zeros_(block.scale_shift_table)  # no shift, no scale, and gates that are shut
        attention = block.attn2
        width = attention.to_q.out_features // attention.heads
        for layer, of in ((attention.to_q, 0), (attention.to_k, 1)):
            _zero(layer)
            layer.weight[::width, of] = 1
        attention.norm_k.weight.fill_(STRENGTH)
        _zero(attention.to_out[0])  # it is behind no gate


def _zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
