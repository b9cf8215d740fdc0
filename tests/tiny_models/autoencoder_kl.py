"""A tiny autoencoder of the kind that most families have."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL


def autoencoder(levels: int = 2, channels: int = 4, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        norm_num_groups=2,
        mid_block_add_attention=False,
        **options,
    ).eval()


# How latents of a flow model are scaled.
FLOW = {"scaling_factor": 1.5, "shift_factor": 0.06, "use_quant_conv": False, "use_post_quant_conv": False}
