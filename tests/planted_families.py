"""Networks of every family whose attention is planted: one token and the positive patches see each other, alone.

Blocks hand on what they are given, so that the sign of the latents' first channel reaches every attention site through
the real modules in the first feature of the picture's tokens, and a mark of the chosen token in the second feature of
the text's. Queries and keys are made of these two features: score(x → y) = strength · (x₀ y₁ + x₁ y₀).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

import sdprobe
from tests.planted import STRENGTH, hand_on
from tests.planted_aura_flow import plant_aura_flow
from tests.planted_cogvideox import plant_cogvideox
from tests.planted_flux2 import plant_flux2
from tests.planted_hunyuan_video import plant_hunyuan_video
from tests.planted_krea2 import plant_krea2
from tests.planted_layers import feature, plant_joint, zero
from tests.planted_ltx import plant_ltx
from tests.planted_lumina2 import plant_lumina2
from tests.planted_qwen_image import plant_qwen_image
from tests.planted_sana import plant_sana
from tests.planted_wan import plant_wan
from tests.planted_z_image import plant_z_image


class Marked(sdprobe.Transform):
    """Prompt embeddings that are zero, but for a mark on one token: at one position of all prompts, or one of each."""

    def __init__(self, *positions: int) -> None:
        self.positions = positions

    def prompt_embeds(self, x: Tensor, text: sdprobe.Text) -> Tensor:
        marked = torch.zeros_like(x)
        if text.role == "cond":
            for row, position in zip(marked, cycle(self.positions), strict=False):
                row[position, 0] = 1
        return marked


def planted(pipe: Any) -> sdprobe.Model:
    """The model of a pipeline whose own network is planted."""
    plant(pipe)
    return sdprobe.load(pipe)


def plant(pipe: Any) -> None:
    """Plant the pipeline's own network, or both where it has two."""
    with torch.no_grad():
        for name in ("unet", "transformer", "transformer_2"):
            if (network := getattr(pipe, name, None)) is not None:
                PLANTED.get(type(network).__name__, _plant_transformer)(network)


def _plant_unet(unet: Any) -> None:
    for name, module in unet.named_modules():
        if isinstance(module, nn.Conv2d):
            hand_on(module)
        elif isinstance(module, nn.Linear) and name.endswith(("to_out.0", "ff.net.2")):
            zero(module)
        elif isinstance(module, nn.Linear) and name.endswith(("proj_in", "proj_out")):
            feature(module, 0, 0)
    for name, module in unet.named_modules():
        if name.endswith("conv2") or name == "conv_out":
            nn.init.zeros_(module.weight)
        if hasattr(module, "to_q") and module.is_cross_attention:
            _plant_cross(module, 0)


def _plant_transformer(network: Any) -> None:
    adaptive = ("norm1.linear", "norm1_context.linear", "norm.linear", "adaln_single.linear", "norm_out.linear")
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(adaptive):
            zero(module)  # no shift, no scale, and gates that are shut: blocks add nothing
        if hasattr(module, "scale_shift_table"):
            nn.init.zeros_(module.scale_shift_table)
    if hasattr(network, "x_embedder"):  # Flux: the four places of a patch are four channels of the packed latents
        feature(network.x_embedder, 0, slice(0, 4))
    else:
        hand_on_patch(network.pos_embed)
    if hasattr(network, "context_embedder"):
        feature(network.context_embedder, 1, 0)
    else:
        feature(network.caption_projection.linear_1, 1, 0)
        feature(network.caption_projection.linear_2, 1, 1)
    for module in network.modules():
        if getattr(module, "is_cross_attention", False):
            _plant_cross(module, 1)
            zero(module.to_out[0])  # it is behind no gate
        elif hasattr(module, "to_q"):
            plant_joint(module)


def _plant_cross(module: Any, mark: int) -> None:
    width = module.to_q.out_features // module.heads
    for layer in (module.to_q, module.to_k):
        zero(layer)
    module.to_q.weight[::width, 0] = 1
    module.to_k.weight[::width, mark] = STRENGTH


def hand_on_patch(embed: Any) -> None:
    """The first feature of a patch is the sum of the latents' first channel over it; where it stands is not told."""
    nn.init.zeros_(embed.proj.weight)
    nn.init.zeros_(embed.proj.bias)
    embed.proj.weight[0, 0] = 1
    embed.pos_embed.zero_()


PLANTED: dict[str, Callable[[Any], None]] = {
    "UNet2DConditionModel": _plant_unet,
    "AuraFlowTransformer2DModel": plant_aura_flow,
    "QwenImageTransformer2DModel": plant_qwen_image,
    "SanaTransformer2DModel": plant_sana,
    "Flux2Transformer2DModel": plant_flux2,
    "Krea2Transformer2DModel": plant_krea2,
    "CogVideoXTransformer3DModel": plant_cogvideox,
    "HunyuanVideoTransformer3DModel": plant_hunyuan_video,
    "LTXVideoTransformer3DModel": plant_ltx,
    "WanTransformer3DModel": plant_wan,
    "WanVACETransformer3DModel": plant_wan,
    "Lumina2Transformer2DModel": plant_lumina2,
    "ZImageTransformer2DModel": plant_z_image,
}
"""How a network is planted, by its class; every other as a transformer of Stable Diffusion 3, Flux or PixArt."""
