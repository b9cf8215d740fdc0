"""The planting of Qwen-Image's network; see `tests.planted_families`."""

from __future__ import annotations

from typing import Any

import torch

from tests.planted_layers import feature, plant_joint, zero


def plant_qwen_image(network: Any) -> None:
    """Blocks add nothing, positions are not told, and every attention joins the mark to the sign of the latents."""
    network.pos_embed.pos_freqs = torch.ones_like(network.pos_embed.pos_freqs)
    network.pos_embed.neg_freqs = torch.ones_like(network.pos_embed.neg_freqs)
    feature(network.img_in, 0, slice(0, 4))  # the four places of a patch are four channels of the packed latents
    feature(network.txt_in, 1, 0)
    zero(network.norm_out.linear)
    for block in network.transformer_blocks:
        zero(block.img_mod[1])
        zero(block.txt_mod[1])
        plant_joint(block.attn)
