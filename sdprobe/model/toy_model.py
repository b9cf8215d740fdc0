"""`toy_model`: a very small Stable Diffusion with random weights, for fast tests."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdprobe.core.run import Role
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.shapes import WEIGHTS

TOKENS = 16


def toy_model(
    prediction_type: str = "epsilon",
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """Make a new toy model, for tests of hooks where the content of the images does not matter.

    It has two levels, with cross- and self-attention at both and in the middle. Token embeddings and prompt embeddings
    have width 16, a prompt has 16 tokens, latents are 8 × 8 and an image 16 × 16 pixels.

    >>> import sdprobe
    >>> from sdprobe.testing import toy_model
    >>> run = sdprobe.sample(toy_model(), "a red circle", steps=2, seed=0, progress=False)
    >>> run.images[0].size, run.latents.shape
    ((16, 16), torch.Size([1, 4, 8, 8]))

    Args:
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        seed: the seed of the weights; the same seed gives the same model.
        dtype: the dtype of the weights, for example ``torch.float16``; None is float32.
        device: the device, for example ``"cuda"``; None is the CPU.
    """
    return load(toy_pipeline(prediction_type, seed=seed), dtype=dtype, device=device)


def with_roles_reversed(model: Model) -> Model:
    """Return the model with the roles of its rows in reverse order, to test that a hook uses the labels of rows.

    >>> from sdprobe.model.toy_model import toy_model, with_roles_reversed
    >>> toy_model().roles(3.0), with_roles_reversed(toy_model()).roles(3.0)
    (('uncond', 'cond'), ('cond', 'uncond'))
    """
    kind = type(model)

    class RolesReversed(kind):  # type: ignore[misc, valid-type]
        def roles(self, guidance_scale: float) -> tuple[Role, ...]:
            return tuple(reversed(super().roles(guidance_scale)))

    return RolesReversed(model.pipe)


def tokenizer() -> CLIPTokenizer:
    """Return the embedded model's vocabulary with a context of 16 tokens."""
    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=TOKENS)


def toy_pipeline(
    prediction_type: str = "epsilon",
    channels: tuple[int, ...] = (8, 16),
    sample_size: int = 8,
    seed: int = 0,
    words: CLIPTokenizer | None = None,
) -> StableDiffusionPipeline:
    """Make the pipeline of a toy model, with one level per number of channels. Keeps the global random state."""
    words = tokenizer() if words is None else words
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = _networks(channels, sample_size, words)
    return StableDiffusionPipeline(
        **parts,
        tokenizer=words,
        scheduler=usual_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def usual_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Return DDIM with the noise levels of Stable Diffusion."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def other_levels() -> FlowMatchEulerDiscreteScheduler:
    """Return a flow scheduler with other noise levels than usual."""
    return FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)


def _networks(channels: tuple[int, ...], sample_size: int, words: CLIPTokenizer) -> dict[str, Any]:
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
        sample_size=2 * sample_size,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    return {"unet": unet, "vae": vae, "text_encoder": text_encoder}
