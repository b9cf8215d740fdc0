"""The second embedded model put together: `StableDiffusion3Pipeline`, with the first model's autoencoder and words."""

import copy
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    VisionTextDualEncoderModel,
)

SHIFT = 3.0
"""How far the sampler's noise levels are moved up: half of its steps lie above .75, where shapes are decided."""


def new_transformer(width: int = 96, layers: int = 6, heads: int = 3) -> SD3Transformer2DModel:
    """An untrained transformer: every place of the latents is a token, joint attention in every block."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=width // heads,
        num_attention_heads=heads,
        joint_attention_dim=192,
        caption_projection_dim=width,
        pooled_projection_dim=160,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


def text_encoders(weights: Path) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]:
    """The first model's text encoder, and the text tower of its CLIP, as this pipeline takes them.

    The pipeline reads the words before the last layer. So that no layer is lost to it, each gets a last one that does
    nothing: its weights are zeros. The first encoder has no projection, and gets one that changes nothing.
    """
    first = CLIPTextModel.from_pretrained(weights / "text_encoder", local_files_only=True)
    clip = VisionTextDualEncoderModel.from_pretrained(weights / "clip", local_files_only=True)
    unchanged = torch.eye(first.config.hidden_size)
    return _with_projection(first, unchanged), _with_projection(clip.text_model, clip.text_projection.weight)


def shared_autoencoder(weights: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """Return the first model's autoencoder as this pipeline takes it: with a shift of its latents, of zero."""
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=dtype, local_files_only=True)
    vae.register_to_config(shift_factor=0.0)
    return vae


def open_joint(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusion3Pipeline:
    """The pipeline from a folder; diffusers wants to be told once more that it has no T5."""
    opened: StableDiffusion3Pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=dtype, local_files_only=True
    )
    return opened


def _with_projection(text: nn.Module, projection: torch.Tensor) -> CLIPTextModelWithProjection:
    config: CLIPTextConfig = copy.deepcopy(text.config)
    config.num_hidden_layers += 1
    config.projection_dim = len(projection)
    made = CLIPTextModelWithProjection(config)
    with torch.no_grad():
        for weight in made.text_model.encoder.layers[-1].parameters():
            weight.zero_()
        made.text_projection.weight.copy_(projection)
    made.text_model.load_state_dict(text.state_dict(), strict=False)
    return made.eval().requires_grad_(False)


def joint_pipeline(weights: Path, transformer: SD3Transformer2DModel) -> StableDiffusion3Pipeline:
    """The stock pipeline around a transformer.

    Args:
        weights: the first model's folder, with `vae`, `text_encoder`, `tokenizer` and `clip`.
        transformer: the denoiser.
    """
    vae = shared_autoencoder(weights).eval().requires_grad_(False)
    first, second = text_encoders(weights)
    tokenizers = [CLIPTokenizer.from_pretrained(weights / "tokenizer", local_files_only=True) for _ in range(2)]
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizers[0],
        text_encoder_2=second,
        tokenizer_2=tokenizers[1],
        text_encoder_3=None,
        tokenizer_3=None,
    )
