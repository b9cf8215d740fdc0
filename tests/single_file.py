"""A pipeline's weights under the names of the original Stable Diffusion checkpoints, in one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

Renames = Sequence[tuple[str, str]]

RESNET: Renames = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
OUTSIDE: Renames = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)


def unet_name(name: str, layers: int) -> str:
    """The original name of a U-Net's parameter; ``layers`` is its ``layers_per_block``."""
    inside = ".resnets." in name
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        side, block, part, layer, rest = match.groups()
        number = (layers + 1) * int(block) + int(layer) + (1 if side == "down" else 0)
        stem = "input_blocks" if side == "down" else "output_blocks"
        name = f"{stem}.{number}.{0 if part == 'resnets' else 1}.{rest}"
    elif match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        name = f"input_blocks.{(layers + 1) * (int(match[1]) + 1)}.0.op.{match[2]}"
    elif match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", name):
        name = f"output_blocks.{(layers + 1) * int(match[1]) + layers}.2.{match[2]}"
    for pattern, new in (*OUTSIDE, *(RESNET if inside else ())):
        name = re.sub(pattern, new, "." + name if pattern.startswith(r"\.") else name).lstrip(".")
    return name


def vae_name(name: str, blocks: int) -> str:
    """The original name of an autoencoder's parameter."""
    name = re.sub(r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block.", name)
    name = re.sub(r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", name)
    turned = lambda match: f"decoder.up.{blocks - 1 - int(match[1])}."  # noqa: E731
    name = re.sub(r"^decoder\.up_blocks\.(\d+)\.", turned, name)
    name = re.sub(r"^(decoder\.up\.\d+)\.resnets\.", r"\1.block.", name)
    name = re.sub(r"^(decoder\.up\.\d+)\.upsamplers\.0\.", r"\1.upsample.", name)
    name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda match: f".mid.block_{int(match[1]) + 1}.", name)
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def save_single_file(pipe: Any, path: Path) -> None:
    """Write the pipeline as one ``.safetensors`` file, as Stable Diffusion 1 was first published."""
    layers, blocks = pipe.unet.config.layers_per_block, len(pipe.vae.config.block_out_channels)
    state = {f"model.diffusion_model.{unet_name(k, layers)}": v for k, v in pipe.unet.state_dict().items()}
    state |= {f"first_stage_model.{vae_name(k, blocks)}": v for k, v in pipe.vae.state_dict().items()}
    text = {k.removeprefix("text_model."): v for k, v in pipe.text_encoder.state_dict().items()}
    state |= {f"cond_stage_model.transformer.text_model.{k}": v for k, v in text.items()}
    save_file({k: v.contiguous().clone() for k, v in state.items()}, path)
