"""`Attention`: one attention call, as a hook at the point ``attention`` receives it.

Values are computed only on request. If no hook replaces anything, the model's own kernel computes the output, so
observing is exact; the probabilities are computed separately.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.attention_call import AttentionCall, per_head
from sdprobe.core.attention_columns import add_mean_columns, can_add_columns
from sdprobe.core.run import Role, as_slice, rows_of

Rows = Role | Sequence[int] | slice | None
Index = slice | Tensor
ALL = slice(None)

# Probabilities of which only some columns are asked for are computed in blocks of queries of this size.
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Attention(AttentionCall):
    """The final query, key, value and mask of one attention call (after LoRA, norms and rotary embeddings).

    Args:
        query: ``[rows, heads, queries, width]``; the queries are the image positions.
        key: ``[rows, heads, keys, width]``; in cross-attention the keys are the prompt's tokens. With grouped queries
            it has fewer heads, each for as many heads of the query.
        value: ``[rows, heads, keys, width]``, with the heads of the key.
        mask: added to the scores, or boolean (True keeps a key), or None.
        scale: the factor of the scores.
        rows: what each row of the batch is.
        kernel: runs the call as the model does.
        fused: runs the same kernel and returns its output and log Σ exp of the scores, or None if it cannot.
        project: computes key and value of this call from prompt embeddings ``[rows, tokens, width]``.

    An `Attention` does not change: `with_probs`, `masked`, `biased`, `with_query`, `with_keys`, `with_value`,
    `with_context` and `with_output` return a new one.
    """

    def probs(
        self,
        rows: Rows = None,
        heads: Sequence[int] | slice | None = None,
        tokens: Sequence[int] | slice | None = None,
        queries: Sequence[int] | slice | None = None,
    ) -> Shaped[Tensor, "rows heads queries tokens"]:
        """Return attention probabilities: softmax over the *whole* key axis, then only the columns asked for.

        Args:
            rows: a role (``"cond"``), row numbers, or None for all.
            heads: head numbers, or None for all.
            tokens: key positions (columns), or None for all.
            queries: query positions, or None for all. In joint attention, image and text are parts of one axis:
                ``attn.probs(queries=site.image, tokens=site.text)``.

        Returns:
            ``[rows, heads, queries, tokens]``, in fp32 if the model computes in half precision.
        """
        if self.replaced:
            return self._probs_of_each(rows, heads, queries, tokens)
        return self._probs(*self._indices(rows, heads, queries, tokens))

    def _probs_of_each(self, rows: Rows, heads: Any, queries: Any, tokens: Any) -> Tensor:
        """Return the probabilities of each row: those that replaced its own, or its own."""
        numbers = rows_of(self.rows, rows) if isinstance(rows, str) else rows
        every = range(len(self.query))
        found = []
        for k in every if numbers is None else every[numbers] if isinstance(numbers, slice) else numbers:
            r, h, q, t = self._indices([k], heads, queries, tokens)
            found.append(self.replaced[k][h][:, q][..., t] if k in self.replaced else self._probs(r, h, q, t)[0])
        return torch.stack(found if len({own.dtype for own in found}) < 2 else [own.float() for own in found])

    def _probs(self, r: Index, h: Index, q: Index, t: Index) -> Tensor:
        if (logsumexp := self.logsumexp()) is not None:
            return self._columns(r, h, q, t, logsumexp)
        return self._softmax(r, h, q)[..., t] if _is_all(t) else self._softmax_in_blocks(r, h, q, t)

    def add_mean_probs(
        self,
        total: Float[Tensor, "rows queries tokens"],
        rows: Rows = None,
        tokens: Sequence[int] | slice | None = None,
        queries: Sequence[int] | slice | None = None,
    ) -> None:
        """Add the mean over heads of `probs` to a running sum, in place.

        On a GPU this takes one launch and no further memory, if the kernel gives log Σ exp and there is no mask.
        """
        if self.replaced:
            total.add_(self._probs_of_each(rows, None, queries, tokens).mean(1))
            return
        r, h, q, t = self._indices(rows, None, queries, tokens)
        if self.mask is None and can_add_columns(self.query) and (logsumexp := self.logsumexp()) is not None:
            add_mean_columns(self.query[r][:, :, q], self.key[r], logsumexp[r][:, :, q], t, self.scale, total)
        else:
            total.add_(self._probs(r, h, q, t).mean(1))

    def _indices(self, rows: Rows, heads: Any, queries: Any, tokens: Any) -> tuple[Index, Index, Index, Index]:
        r = rows_of(self.rows, rows) if isinstance(rows, str) else rows
        device, (_, _, queried, _), keys = self.query.device, self.query.shape, self.key.shape[2]
        return (
            _index(r, device, len(self.query)),
            _index(heads, device, None),
            _index(queries, device, queried),
            _index(tokens, device, keys),
        )

    def _softmax(self, r: Index, h: Index, q: Index) -> Tensor:
        return self._scores(r, h, q).softmax(-1)

    def _softmax_in_blocks(self, r: Index, h: Index, q: Index, t: Index) -> Tensor:
        """Return columns of the softmax without holding all of it, unless gradients need all of it."""
        numbers = torch.arange(self.query.shape[2])[q if isinstance(q, slice) else q.cpu()]
        of_query = 2 * 4 * self.query[r][:, h].shape[:2].numel() * self.key.shape[2]  # scores and their softmax, fp32
        block = max(1, BLOCK_BYTES // of_query)
        if len(numbers) <= block or self._needs_grad:
            return self._softmax(r, h, q)[..., t]
        parts = (part.tolist() for part in numbers.split(block))
        return torch.cat([self._softmax(r, h, _index(part, self.query.device, None))[..., t] for part in parts], dim=2)

    @property
    def _needs_grad(self) -> bool:
        return torch.is_grad_enabled() and (self.query.requires_grad or self.key.requires_grad)

    def _scores(self, r: Index, h: Index, q: Index) -> Tensor:
        """Return scale · query · keyᵀ + mask."""
        query, key = _of(self.query, r, h, q), _of(per_head(self.key, self.query), r, h, ALL)
        with in_full_precision(query):
            scores = torch.matmul(query.float() * self.scale, key.float().mT)
        if self.mask is None:
            return scores
        mask = self._mask(r, h, q)
        return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.float()

    def _columns(self, r: Index, h: Index, q: Index, t: Index, logsumexp: Tensor) -> Tensor:
        """Return exp(scale · query · keyᵀ + mask - logsumexp) of some keys, without the others."""
        query, key = _of(self.query, r, h, q), _of(per_head(self.key, self.query), r, h, t)
        less = _of(logsumexp, r, h, q).unsqueeze(-1)
        if self.mask is not None:
            mask = self._mask(r, h, q)[..., t]
            less = less.masked_fill(~mask, math.inf) if mask.dtype == torch.bool else less - mask.float()
        rows, heads = key.shape[:2]
        query, key, less = query.flatten(0, 1), key.flatten(0, 1), less.flatten(0, 1)
        if query.dtype != torch.float32:
            query, key, less = query.float(), key.float(), less.float()
        with in_full_precision(query):
            found: Tensor = torch.baddbmm(less, query, key.mT, beta=-1, alpha=self.scale).exp_()
        found = found.unflatten(0, (rows, heads))
        return found

    def _mask(self, r: Index, h: Index, q: Index) -> Tensor:
        assert self.mask is not None
        return _of(self.mask.expand(*self.query.shape[:-1], self.key.shape[-2]), r, h, q)

    def output(self) -> Shaped[Tensor, "rows heads queries width_v"]:
        """Return the output of the call: the stock kernel's result, or replaced probabilities times the value."""
        if "output" in self._made:
            made: Tensor = self._made["output"]
            return made
        replaced, values = sorted(self.replaced), per_head(self.value, self.query)
        if len(replaced) < len(self.query):
            made = self.kernel(self)
        if replaced:
            new = torch.stack([self.replaced[k] for k in replaced]).to(values.dtype) @ values[as_slice(replaced)]
            made = (
                new if len(new) == len(self.query) else made.index_copy(0, _positions(tuple(replaced), new.device), new)
            )
        # Do not keep an output that an observer computed without gradients if the model needs gradients of it.
        if torch.is_grad_enabled() or not (self.query.requires_grad or self.value.requires_grad):
            self._made["output"] = made
        return made

    def tensors(self) -> tuple[Tensor, ...]:
        """Return every tensor that a hook could write into and must not."""
        held = (self.query, self.key, self.value, self.mask, *self.replaced.values(), self._made.get("output"))
        return tuple([tensor for tensor in held if tensor is not None])

    def logsumexp(self) -> Float[Tensor, "rows heads queries"] | None:
        """Return log Σ exp(scores) of every query, or None if the kernel does not give it."""
        if "logsumexp" not in self._made:
            both = self.fused(self)
            self._made["logsumexp"] = None if both is None else both[1]
            if both is not None and not self.replaced:
                self._made.setdefault("output", both[0])
        lse: Tensor | None = self._made["logsumexp"]
        return lse


def in_full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """While this is open, ``torch.autocast`` does not lower the precision of what is computed on a tensor's device."""
    kind = x.device.type
    lowered = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if lowered else nullcontext()


def _index(chosen: Sequence[int] | slice | None, device: torch.device, of: int | None) -> Index:
    """Return an index; `ALL` for a slice of everything, if the number of entries is known."""
    if chosen is None or (isinstance(chosen, slice) and of is not None and chosen == slice(0, of)):
        return ALL
    found = chosen if isinstance(chosen, slice) else as_slice(chosen)
    return found if isinstance(found, slice) else _positions(tuple(found), device)


@lru_cache(maxsize=256)
def _positions(chosen: tuple[int, ...], device: torch.device) -> Tensor:
    # An index given as a list is copied to the device each time, which waits for all that runs there.
    if device.type != "cuda":
        return torch.tensor(chosen, dtype=torch.long, device=device)
    return torch.tensor(chosen, dtype=torch.long, pin_memory=True).to(device, non_blocking=True)


def _of(x: Tensor, rows: Index, heads: Index, places: Index) -> Tensor:
    x = x if _is_all(rows) else x[rows]
    x = x if _is_all(heads) else x[:, heads]
    return x if _is_all(places) else x[:, :, places]


def _is_all(chosen: Index) -> bool:
    return isinstance(chosen, slice) and chosen == ALL
