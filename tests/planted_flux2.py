"""The planting of Flux.2's network; see `tests.planted_families`."""

from __future__ import annotations

from typing import Any

import torch

from tests.planted import STRENGTH
from tests.planted_layers import feature, plant_joint, queries_and_keys, zero


def plant_flux2(network: Any) -> None:
    """Blocks add nothing, and every attention joins the mark to the sign of the latents."""
    feature(network.x_embedder, 0, 0)
    feature(network.context_embedder, 1, 0)
    modulations = (network.double_stream_modulation_img, network.double_stream_modulation_txt)
    for modulation in (*modulations, network.single_stream_modulation):
        zero(modulation.linear)  # no shift, no scale, and gates that are shut
    zero(network.norm_out.linear)
    for block in network.transformer_blocks:
        plant_joint(block.attn)
    for block in network.single_transformer_blocks:
        _plant_fused(block.attn)


@torch.no_grad()
def _plant_fused(module: Any) -> None:
    """As a module of two streams; queries and keys are the first two parts of what one layer gives."""
    zero(module.to_qkv_mlp_proj)
    (query, key), width = queries_and_keys(module), module.head_dim
    query[0::width, 0] = query[1::width, 1] = 1
    key[0::width, 1] = key[1::width, 0] = 1
    module.norm_k.weight.fill_(STRENGTH)
