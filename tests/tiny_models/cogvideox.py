"""Tiny CogVideoX, with random weights: as 2B (sines for places, DDIM) and as 1.5 (rotary, two frames are one token)."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from tests.tiny_models.clip_and_t5 import T5_WIDTH, t5, t5_tokenizer

CHANNELS = 4


def autoencoder() -> AutoencoderKLCogVideoX:
    """2 pixels each way and 2 frames are one position."""
    return AutoencoderKLCogVideoX(
        block_out_channels=(4, 4),
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=2,
        scaling_factor=0.7,
    ).eval()


def cogvideox(in_pairs: bool = False, noisy: bool = False) -> CogVideoXPipeline:
    """Two blocks of two heads; ``in_pairs`` as 1.5; ``noisy`` with the scheduler that adds noise in every step."""
    words = t5_tokenizer()
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=8,
        text_embed_dim=T5_WIDTH,
        num_layers=2,
        sample_width=16,
        sample_height=8,
        sample_frames=5,
        patch_size=2,
        patch_size_t=2 if in_pairs else None,
        temporal_compression_ratio=2,
        use_rotary_positional_embeddings=in_pairs,
    )
    kind = CogVideoXDPMScheduler if noisy else CogVideoXDDIMScheduler
    return CogVideoXPipeline(
        transformer=transformer.eval(),
        scheduler=kind(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True),
        vae=autoencoder(),
        text_encoder=t5(words),
        tokenizer=words,
    )


def cogvideox_image_to_video() -> CogVideoXImageToVideoPipeline:
    """The denoiser is shown the picture's latents beside those of the video."""
    usual = cogvideox(in_pairs=True)
    torch.manual_seed(1)
    shown = {**usual.transformer.config, "in_channels": 2 * CHANNELS}
    network = CogVideoXTransformer3DModel.from_config(shown).eval()
    pipe = CogVideoXImageToVideoPipeline(**{**usual.components, "transformer": network})
    pipe.set_progress_bar_config(disable=True)
    return pipe
