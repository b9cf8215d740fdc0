"""`add_mean_columns`: some columns of attention probabilities, added to a running sum in one launch on a GPU.

With log Σ exp known, a column of the softmax needs no other: exp(scale · query · key_j - logsumexp). The kernel reads
query and key as the model made them, takes the mean over heads, and keeps nothing beside the sum. Written in Triton,
which comes with torch for CUDA.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.short_repr import said

HAS_TRITON = find_spec("triton") is not None
INTERPRETED = bool(int(os.environ.get("TRITON_INTERPRET", "0")))  # Triton's own switch: kernels run on the CPU
QUERIES, WIDTH_AT_ONCE = 64, 64  # of one program

if HAS_TRITON:
    import triton
    import triton.language as tl

    @triton.jit
    def _add_mean_columns(
        query,
        key,
        logsumexp,
        positions,
        total,
        scale,
        share,
        queries,
        tokens,
        query_row,
        query_head,
        query_place,
        key_row,
        key_head,
        key_place,
        less_row,
        less_head,
        less_place,
        total_row,
        total_place,
        total_token,
        WIDTH: tl.constexpr,
        HEADS: tl.constexpr,
        GROUP: tl.constexpr,
        BLOCK_QUERIES: tl.constexpr,
        BLOCK_TOKENS: tl.constexpr,
        BLOCK_WIDTH: tl.constexpr,
        SINGLE: tl.constexpr,
    ):
        row = tl.program_id(2).to(tl.int64)  # a row of many may begin beyond 2³¹ numbers
        at = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
        token = tl.program_id(1) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
        part = tl.arange(0, BLOCK_WIDTH)
        here, asked = at < queries, token < tokens
        position = tl.load(positions + token, mask=asked, other=0)
        found = tl.zeros((BLOCK_QUERIES, BLOCK_TOKENS), tl.float32)
        for head in range(HEADS):
            scores = tl.zeros((BLOCK_QUERIES, BLOCK_TOKENS), tl.float32)
            # In parts: all of a wide head does not fit into the memory that the threads of a program share.
            for begin in range(0, WIDTH, BLOCK_WIDTH):
                within = begin + part < WIDTH
                q = tl.load(
                    query + row * query_row + head * query_head + at[:, None] * query_place + (begin + part)[None, :],
                    mask=here[:, None] & within[None, :],
                    other=0.0,
                )
                k_head = key + row * key_row + (head // GROUP) * key_head
                k = tl.load(
                    k_head + position[None, :] * key_place + (begin + part)[:, None],
                    mask=asked[None, :] & within[:, None],
                    other=0.0,
                )
                # Otherwise Triton multiplies single precision in TF32.
                scores += tl.dot(q, k, input_precision="ieee") if SINGLE else tl.dot(q, k)
            less = tl.load(logsumexp + row * less_row + head * less_head + at * less_place, mask=here, other=0.0)
            found += tl.exp(scores * scale - less[:, None])
        place = total + row * total_row + at[:, None] * total_place + token[None, :] * total_token
        inside = here[:, None] & asked[None, :]
        tl.store(place, tl.load(place, mask=inside, other=0.0) + found * share, mask=inside)


def can_add_columns(query: Tensor) -> bool:
    """Whether `add_mean_columns` can run on the device of a query."""
    return HAS_TRITON and (INTERPRETED or (query.is_cuda and _can_compile_for(query.device)))


@cache
def _can_compile_for(device: torch.device) -> bool:
    """Whether Triton supports a GPU, and finds the C compiler with which it builds its launcher."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and torch.cuda.get_device_capability(device) >= (7, 0)


def add_mean_columns(
    query: Shaped[Tensor, "rows heads queries width"],
    key: Shaped[Tensor, "rows groups keys width"],
    logsumexp: Float[Tensor, "rows heads queries"],
    tokens: slice | Tensor,
    scale: float,
    total: Float[Tensor, "rows queries tokens"],
) -> None:
    """Add the mean over heads of softmax(scale · query · keyᵀ)[..., tokens] to a running sum in fp32, in place."""
    rows, heads, queries, width = query.shape
    positions = _positions_of(tokens, key)
    if total.shape != (rows, queries, len(positions)) or total.dtype != torch.float32:
        raise ValueError(f"the sum has to be fp32 of {[rows, queries, len(positions)]}, not {said(total)}")
    query, key = _packed(query), _packed(key)
    block_tokens = min(64, max(16, triton.next_power_of_2(len(positions))))
    grid = (triton.cdiv(queries, QUERIES), triton.cdiv(len(positions), block_tokens), rows)
    with torch.cuda.device_of(query):
        _add_mean_columns[grid](
            query,
            key,
            logsumexp,
            positions,
            total,
            scale,
            1.0 / heads,
            queries,
            len(positions),
            *query.stride()[:3],
            *key.stride()[:3],
            *logsumexp.stride(),
            *total.stride(),
            WIDTH=width,
            HEADS=heads,
            GROUP=heads // key.shape[1],
            BLOCK_QUERIES=QUERIES,
            BLOCK_TOKENS=block_tokens,
            BLOCK_WIDTH=min(WIDTH_AT_ONCE, max(16, triton.next_power_of_2(width))),
            SINGLE=query.dtype == torch.float32,
        )


def _positions_of(tokens: slice | Tensor, key: Tensor) -> Tensor:
    if isinstance(tokens, Tensor):
        return tokens
    return torch.arange(*tokens.indices(key.shape[2]), device=key.device)


def _packed(x: Tensor) -> Tensor:
    """Return a tensor whose last axis is without gaps in memory, as the kernel reads it."""
    return x if x.stride(-1) == 1 else x.contiguous()
