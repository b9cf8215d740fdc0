"""`run_with_logsumexp`: the kernel that `scaled_dot_product_attention` would choose, with log Σ exp of its scores.

Each fused kernel computes this number for every query on its way and can return it. It is called here as
`scaled_dot_product_attention` itself calls it (aten/src/ATen/native/transformers/attention.cpp), so the output is the
same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.attention import SDPBackend

aten = torch.ops.aten


class KernelOutput(NamedTuple):
    """The output of an attention call, and log Σ exp of the scores of every query."""

    output: Shaped[Tensor, "rows heads queries width_v"]
    logsumexp: Float[Tensor, "rows heads queries"]


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, float | None], KernelOutput]


def run_with_logsumexp(
    query: Shaped[Tensor, "rows heads queries width"],
    key: Shaped[Tensor, "rows groups keys width"],
    value: Shaped[Tensor, "rows groups keys width_v"],
    mask: Shaped[Tensor, ...] | None,
    scale: float | None,
    grouped: bool = False,
) -> KernelOutput | None:
    """Return what the chosen kernel computes; None if no fused kernel is chosen, with gradients and with autocast."""
    kernels = KERNELS.get(query.device.type)
    if kernels is None or torch.is_autocast_enabled(query.device.type):
        return None
    if query.requires_grad or key.requires_grad or value.requires_grad or (mask is not None and mask.requires_grad):
        return None  # the logsumexp of a kernel has no gradient
    choice = torch._fused_sdp_choice(query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped)
    kernel = kernels.get(choice)
    if kernel is None or (kernel is _cudnn and mask is not None and mask.dtype == torch.bool):
        return None  # what a boolean mask becomes for cuDNN differs between versions of torch
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -math.inf)
    return kernel(query, key, value, mask, scale)


def _flash_on_cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> KernelOutput:
    return KernelOutput(
        *aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
    )


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> KernelOutput:
    width = v.shape[-1]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale  # of the width before padding
    q, k, v = (F.pad(x, (0, -x.shape[-1] % 8)) if x.shape[-1] % 8 else x for x in (q, k, v))
    output, logsumexp = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)[:2]
    return KernelOutput(output[..., :width], logsumexp)


def _efficient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> KernelOutput:
    if mask is not None:
        mask = _aligned(mask).expand(*q.shape[:3], k.shape[2])
    made = aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, 0.0, False, scale=scale)
    return KernelOutput(made[0], made[1][..., : q.shape[2]])  # its logsumexp is padded


def _cudnn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> KernelOutput:
    made = aten._scaled_dot_product_cudnn_attention(q, k, v, mask, True, 0.0, False, False, scale=scale)
    return KernelOutput(made[0], made[1].squeeze(-1) if made[1].ndim == 4 else made[1])


def _aligned(mask: Tensor) -> Tensor:
    """Return a mask whose rows begin where the memory-efficient kernel can read them, as SDPA pads it."""
    keys = mask.shape[-1]
    if mask.stride(-1) == 1 and all(stride % 8 == 0 for stride in mask.stride()[:-1]):
        return mask
    return F.pad(mask, (0, 8 - keys % 8))[..., :keys]


KERNELS: dict[str, dict[int, Kernel]] = {
    "cpu": {int(SDPBackend.FLASH_ATTENTION): _flash_on_cpu},  # type: ignore[call-overload]
    "cuda": {
        int(SDPBackend.FLASH_ATTENTION): _flash,  # type: ignore[call-overload]
        int(SDPBackend.EFFICIENT_ATTENTION): _efficient,  # type: ignore[call-overload]
        int(SDPBackend.CUDNN_ATTENTION): _cudnn,  # type: ignore[call-overload]
    },
}
"""By kind of device, the kernels that return log Σ exp, by the number that torch gives its backends."""
