"""AuraFlow's network, planted; see `tests.planted_families`."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.planted_layers import feature, plant_joint, zero


def plant_aura_flow(network: Any) -> None:
    """Blocks that hand on what they are given; registers that nothing looks at, and that look at all alike."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear")):
            zero(module)
    nn.init.zeros_(network.register_tokens)
    nn.init.zeros_(network.pos_embed.pos_embed)
    feature(network.pos_embed.proj, 0, slice(0, 4))
    feature(network.context_embedder, 1, 0)
    for module in network.modules():
        if hasattr(module, "to_q"):
            # Without weights of their own, norms would leave a token no way to be looked at more than others.
            module.norm_q = module.norm_k = module.norm_added_q = module.norm_added_k = None
            plant_joint(module)
