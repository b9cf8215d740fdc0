"""`reason_of`: why the attention of a module, or its output, could not be seen in a pass of the denoiser."""

from __future__ import annotations

from typing import Any

from torch import nn

from sdprobe.model.denoiser.skipped_by_cache import cache_of

NOT_RUN = "it did not run in this pass of the denoiser"
NO_IMAGE_PROMPT = "no image prompt was given, or the scale of each is 0"
SKIPPED = "skipped by "
LINEAR = (
    "it is linear attention, which has no softmax over the keys and so no attention probabilities; kinds=('cross',) "
    "asks for the cross-attention alone"
)

REMEDIES = {
    "SlicedAttnProcessor": "attention slicing: switch it off by pipe.disable_attention_slicing()",
    "SlicedAttnAddedKVProcessor": "attention slicing: switch it off by pipe.disable_attention_slicing()",
    "XFormersAttnProcessor": "xFormers: switch it off by pipe.disable_xformers_memory_efficient_attention()",
}

LINEAR_PROCESSORS = frozenset(
    (
        *("SanaLinearAttnProcessor2_0", "PAGCFGSanaLinearAttnProcessor2_0", "PAGIdentitySanaLinearAttnProcessor2_0"),
        *("SanaMultiscaleAttnProcessor2_0", "SanaLinearAttnProcessor3_0"),
    )
)


def reason_of(denoiser: nn.Module, name: str, module: Any, entered: bool) -> str:
    """Return the reason: a cache, another way to compute attention, or that the module did not run.

    Args:
        denoiser: the network.
        name: the module's dotted name.
        module: the module.
        entered: whether it ran.
    """
    if (cache := cache_of(denoiser, name)) is not None:
        return f"{SKIPPED}{cache}"
    if not entered:
        return NOT_RUN
    processor = type(getattr(module, "processor", module)).__name__
    if is_linear(module):
        return LINEAR
    usual = "pipe.unet.set_attn_processor(AttnProcessor2_0()) sets one that can be seen"
    way = REMEDIES.get(processor, usual if "UNet" in type(denoiser).__name__ else "its set_processor(...) sets another")
    return f"its {processor} calls neither torch's scaled_dot_product_attention nor a backend of diffusers ({way})"


def is_linear(module: Any) -> bool:
    """Whether a module computes linear attention: queries times the sum of keys and values, without probabilities."""
    return type(getattr(module, "processor", None)).__name__ in LINEAR_PROCESSORS


def skipped(why: str) -> bool:
    """Whether a reason is that a cache left the module out."""
    return why.startswith(SKIPPED)
