"""`read_sdpa_call`: one call of `scaled_dot_product_attention` as an `Attention`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.run import Row

FLASH = int(torch.nn.attention.SDPBackend.FLASH_ATTENTION)  # type: ignore[call-overload]


def read_sdpa_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    rows: tuple[Row, ...] = (),
    project: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Attention:
    """Return an `Attention` for the arguments of `torch.nn.functional.scaled_dot_product_attention`."""
    if is_causal or enable_gqa or dropout_p:
        raise NotImplementedError("causal, grouped-query and dropout attention have no place in a denoiser known here")

    def kernel(attn: Attention) -> Tensor:
        return F.scaled_dot_product_attention(attn.query, attn.key, attn.value, attn_mask=attn_mask, scale=scale)

    def fused(attn: Attention) -> tuple[Tensor, Tensor] | None:
        q, k, v = attn.query, attn.key, attn.value
        if not _is_flash_on_cpu(q, k, v, attn_mask, scale):
            return None
        # The kernel that SDPA itself would choose here; called directly, it also returns log Σ exp.
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, logsumexp = flash(q, k, v, 0.0, False, attn_mask=attn_mask, scale=scale)
        return output, logsumexp

    usual = query.shape[-1] ** -0.5
    return Attention(
        query, key, value, attn_mask, usual if scale is None else scale, rows, kernel, fused, project or _no_module
    )


def _no_module(context: Tensor) -> tuple[Tensor, Tensor]:
    raise ValueError("this attention call belongs to no module that could make key and value of a conditioning")


def project_context(module: Any, kind: str, inlet: Any, context: Tensor) -> tuple[Tensor, Tensor]:
    """Return key and value ``[rows, heads, tokens, width]`` of prompt embeddings, as a cross-attention module does."""
    if kind != "cross":
        raise ValueError(f"only cross-attention makes key and value of a conditioning; this site is {kind!r}")
    context = context if inlet is None else inlet.forward(context)
    if module.norm_cross:
        context = module.norm_encoder_hidden_states(context)
    # By `forward`: other forward hooks on these layers must see only the model's own calls.
    if getattr(module, "fused_projections", False):
        key, value = module.to_kv.forward(context).chunk(2, dim=-1)
    else:
        key, value = module.to_k.forward(context), module.to_v.forward(context)
    key, value = (x.unflatten(-1, (module.heads, -1)).transpose(1, 2) for x in (key, value))
    return (key if module.norm_k is None else module.norm_k.forward(key)), value


def _is_flash_on_cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> bool:
    if q.device.type != "cpu" or not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return False
    if mask is not None and mask.dtype == torch.bool:
        return False  # SDPA converts it to numbers first
    if any(x is not None and x.requires_grad for x in (q, k, v, mask)):
        return False  # its logsumexp has no gradient
    return bool(torch._fused_sdp_choice(q, k, v, attn_mask=mask, scale=scale) == FLASH)
