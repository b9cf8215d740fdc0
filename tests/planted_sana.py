"""Sana's network, planted: see `tests.planted_families`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.planted import STRENGTH


@torch.no_grad()
def plant_sana(network: Any) -> None:
    """The latents' first channel is the first feature of the picture's tokens, the text's mark its own second one."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.endswith("time_embed.linear"):
            _zero(module)  # no shift, no scale, and gates that are shut: blocks add nothing
        if hasattr(module, "scale_shift_table"):
            nn.init.zeros_(module.scale_shift_table)
    nn.init.zeros_(network.patch_embed.proj.weight)
    nn.init.zeros_(network.patch_embed.proj.bias)
    network.patch_embed.proj.weight[0, 0] = 1
    for layer, of in ((network.caption_projection.linear_1, 0), (network.caption_projection.linear_2, 1)):
        _zero(layer)
        layer.weight[1, of] = 1
    for name, module in network.named_modules():
        if name.endswith("attn2"):
            width = module.to_q.out_features // module.heads
            for layer in (module.to_q, module.to_k, module.to_out[0]):  # the last is behind no gate
                _zero(layer)
            module.to_q.weight[::width, 0] = 1
            module.to_k.weight[::width, 1] = STRENGTH


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
