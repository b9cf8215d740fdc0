"""A Z-Image whose attention is planted: one token and the positive patches see each other, alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.planted_layers import feature, plant_joint, zero


def plant_z_image(network: Any) -> None:
    """Hand on the sign of a patch in the first feature, and the mark of a token in the second, past every block."""
    embed = network.rope_embedder
    lengths = zip(embed.axes_dims, embed.axes_lens, strict=True)
    embed.freqs_cis = [torch.ones(length, width // 2, dtype=torch.complex64) for width, length in lengths]
    feature(network.all_x_embedder["2-1"], 0, slice(0, None, network.in_channels))
    feature(network.cap_embedder[1], 1, 0)
    for token in (network.x_pad_token, network.cap_pad_token):
        nn.init.zeros_(token)
    for block in (*network.context_refiner, *network.noise_refiner, *network.layers):
        for gate in (block.attention_norm2, block.ffn_norm2):  # what a block would add goes through them
            nn.init.zeros_(gate.weight)
        if block.modulation:
            zero(block.adaLN_modulation[0])
        plant_joint(block.attention)
