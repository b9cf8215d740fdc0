"""Joint attention as training computes it: the stock processor's result, sooner.

A pipeline without T5 puts 256 tokens of zeros behind the words. They are all alike and stay so through every block, so
one of them whose attention scores are raised by log 256 stands for all, at half of the work. On a processor the fused
kernel takes most of a step at these sizes; products of matrices a few pictures at a time, with the rest of it compiled,
do not.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from torch import Tensor, nn

ZEROS = 256
"""The pipeline's `max_sequence_length`: tokens of zeros where there is no T5."""
_CHUNK = 4


class OneForAllZeros:
    """Joint attention whose last token stands for all tokens of zeros.

    Args:
        compiled: compile what is no product of matrices; needs a C++ compiler, and a minute of its own.
    """

    def __init__(self, compiled: bool = False) -> None:
        self.mixed = _compiled(mixed) if compiled else mixed
        self.together = _compiled(together) if compiled else together

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        places = hidden_states.shape[1]
        q = self.together(
            attn.to_q(hidden_states), attn.add_q_proj(encoder_hidden_states), *_norms(attn, "q"), attn.heads
        )
        k = self.together(
            attn.to_k(hidden_states), attn.add_k_proj(encoder_hidden_states), *_norms(attn, "k"), attn.heads
        )
        v = torch.cat([attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states)], 1)
        bias = torch.zeros(v.shape[1], device=v.device)
        bias[-1] = math.log(ZEROS)
        if v.is_cuda:
            out = fused(q, k, v, bias, attn.heads)
        else:
            parts = zip(q.split(_CHUNK), k.split(_CHUNK), v.split(_CHUNK), strict=True)
            out = torch.cat([self.mixed(*part, bias, attn.heads) for part in parts])
        picture, text = out[:, :places], out[:, places:]
        return attn.to_out[1](attn.to_out[0](picture)), text if attn.context_pre_only else attn.to_add_out(text)


def together(picture: Tensor, text: Tensor, picture_norm: Tensor, text_norm: Tensor, heads: int) -> Tensor:
    """Queries or keys of picture and text in one row, each normalised within its head."""
    parts = []
    for x, weight in ((picture, picture_norm), (text, text_norm)):
        x32 = x.unflatten(-1, (heads, -1)).float()
        scaled = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-6)
        parts.append((scaled * weight).flatten(2).to(x.dtype))
    return torch.cat(parts, 1)


def mixed(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Attention by two products of matrices, `[pictures, tokens, width]`."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float() + bias
    out: Tensor = (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
    return out


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """The same by torch's fused kernel."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).expand(q.shape[2], -1))
    return out.transpose(1, 2).flatten(2)


def gelu(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, written as a sigmoid: the same function, and much sooner."""
    x32 = x.float()
    return (x32 * torch.sigmoid(math.sqrt(8 / math.pi) * (x32 + 0.044715 * x32 * x32 * x32))).to(x.dtype)


def for_training(transformer: SD3Transformer2DModel, compiled: bool = False) -> None:
    """Let a transformer with normalised queries and keys compute as described above."""
    transformer.set_attn_processor(OneForAllZeros(compiled))
    activation = _compiled(gelu) if compiled else gelu
    for part in _activations(transformer):
        part.gelu = activation


def as_stock(transformer: SD3Transformer2DModel) -> None:
    """Undo `for_training`."""
    transformer.set_attn_processor(JointAttnProcessor2_0())
    for part in _activations(transformer):
        vars(part).pop("gelu", None)


def _activations(transformer: SD3Transformer2DModel) -> list[Any]:
    forwards = [ff for block in transformer.transformer_blocks for ff in (block.ff, block.ff_context) if ff is not None]
    return [ff.net[0] for ff in forwards]


def _norms(attn: Attention, name: str) -> tuple[nn.Parameter, nn.Parameter]:
    return getattr(attn, f"norm_{name}").weight, getattr(attn, f"norm_added_{name}").weight


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    made: Callable[..., Tensor] = torch.compile(function)
    return made
