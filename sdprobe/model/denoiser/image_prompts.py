"""`image_prompt_calls`: which image prompt each attention call of a module attends to: an IP-Adapter's, or Wan's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

KIND = "image_prompt"

MAKERS = ("encoder_hid_proj", "image_proj")
"""The parts of a denoiser that make an IP-Adapter's tokens of pictures: of a U-Net or Flux, of Stable Diffusion 3."""


def has_image_prompts(module: Any) -> bool:
    """Whether an attention module attends to image prompts too, each in a call of its own (Ye et al. 2023)."""
    return hasattr(getattr(module, "processor", None), "to_k_ip") or attends_to_picture_first(module)


def attends_to_picture_first(module: Any) -> bool:
    """Whether an attention module attends to a picture before it attends to the text, as in Wan 2.1."""
    return isinstance(module, WanAttention) and module.add_k_proj is not None


def makes_image_prompts(denoiser: Any, module: nn.Module) -> bool:
    """Whether an attention module is within the part that makes an IP-Adapter's tokens (Plus, FaceID Plus).

    The tokens look at a given picture there, which has none of the places of the picture that is made.
    """
    makers = [maker for name in MAKERS if isinstance(maker := getattr(denoiser, name, None), nn.Module)]
    return any(module is own for maker in makers for own in maker.modules())


def kinds_of(module: Any, kind: str) -> tuple[str, ...]:
    """Return the kinds of the attention calls that a module of a kind makes."""
    return (kind, KIND) if has_image_prompts(module) else (kind,)


def image_prompt_calls(module: Any, arguments: Mapping[str, Any]) -> list[str]:
    """Return what each call of an attention module after its first attends to, in order.

    Args:
        module: the attention module, with an IP-Adapter.
        arguments: the arguments of its call: with ``ip_adapter_masks``, each picture of an adapter has its own call.

    Returns:
        ``"image prompt 0"``, ...: one for each adapter whose scale is not 0; with masks also ``"image prompt 0, picture
        1"``, ...
    """
    processor = module.processor
    if not isinstance(processor.to_k_ip, nn.ModuleList):  # Stable Diffusion 3 has one adapter
        return ["image prompt 0"]
    skips = not hasattr(processor, "_attention_backend")  # Flux's runs also with scale 0
    found = []
    for number, scale in enumerate(processor.scale):
        mask = _mask_of(arguments.get("ip_adapter_masks"), number)
        if skips and not any(scale if isinstance(scale, list) else [scale]):
            continue
        name = f"image prompt {number}"
        found += [name] if mask is None else [f"{name}, picture {own}" for own in range(mask.shape[1])]
    return found


def _mask_of(masks: Any, number: int) -> Any:
    if masks is None:
        return None
    return masks[number] if isinstance(masks, list) else masks[number].unsqueeze(0)
