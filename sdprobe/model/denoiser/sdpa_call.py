"""`read_sdpa_call`: one call of `scaled_dot_product_attention` as an `Attention`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdprobe.core.attention import Attention
from sdprobe.core.run import Row
from sdprobe.model.denoiser.kernel_logsumexp import run_with_logsumexp

TORCHS_OWN = torch._C._nn.scaled_dot_product_attention


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
    stock: Callable[..., Tensor] | None = None,
) -> Attention:
    """Return an `Attention` for the arguments of `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        rows: what each row of the batch is.
        project: computes key and value from prompt embeddings.
        stock: the function that was called; None for torch's own. Another one gives no log Σ exp.
    """
    if is_causal or dropout_p:
        raise NotImplementedError("causal and dropout attention have no place in a denoiser known here")
    called = F.scaled_dot_product_attention if stock is None else stock
    usual = query.shape[-1] ** -0.5 if scale is None else scale
    grouped = {"enable_gqa": True} if enable_gqa else {}

    def kernel(attn: Attention) -> Tensor:
        return called(attn.query, attn.key, attn.value, attn_mask=attn_mask, scale=scale, **grouped)

    def fused(attn: Attention) -> tuple[Tensor, Tensor] | None:
        if called is not TORCHS_OWN:
            return None
        return run_with_logsumexp(attn.query, attn.key, attn.value, attn_mask, scale, enable_gqa)

    return Attention(query, key, value, attn_mask, usual, rows, kernel, fused, project or _no_module)


def _no_module(context: Tensor) -> tuple[Tensor, Tensor]:
    raise ValueError("this attention call belongs to no module that could make key and value of a conditioning")


def project_context(module: Any, kind: str, inlet: Sequence[nn.Module], context: Tensor) -> tuple[Tensor, Tensor]:
    """Return key and value ``[rows, heads, tokens, width]`` of prompt embeddings, as a cross-attention module does."""
    if kind != "cross":
        raise ValueError(f"only cross-attention makes key and value of a conditioning; this site is {kind!r}")
    for part in inlet:
        context = part.forward(context)
    if getattr(module, "norm_cross", None):
        context = module.norm_encoder_hidden_states(context)
    # By `forward`: other forward hooks on these layers must see only the model's own calls.
    if getattr(module, "fused_projections", False):
        key, value = module.to_kv.forward(context).chunk(2, dim=-1)
    else:
        key, value = module.to_k.forward(context), module.to_v.forward(context)
    normed = module.norm_k is None
    if not normed and module.norm_k.weight.shape == key.shape[-1:]:  # a norm across all heads
        key, normed = module.norm_k.forward(key), True
    width = module.inner_dim // module.heads  # of keys that several heads share there are fewer
    key, value = (x.unflatten(-1, (-1, width)).transpose(1, 2) for x in (key, value))
    return (key if normed else module.norm_k.forward(key)), value
