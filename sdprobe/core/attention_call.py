"""`AttentionCall`: the tensors of one attention call, and the same call with something replaced."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sdprobe.core.rows import Row
from sdprobe.core.short_repr import said

Kind = TypeVar("Kind", bound="AttentionCall")  # not typing.Self, which the runtime type checks do not support


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """The tensors of one attention call. Its methods return the same call with something replaced.

    For the other fields see `Attention`, which is derived from it.

    Args:
        replaced: probabilities that stand in the place of the call's own, by the number of the row.
        given: the rows whose output a hook has given itself.
    """

    query: Shaped[Tensor, "rows heads queries width"]
    key: Shaped[Tensor, "rows heads keys width"]
    value: Shaped[Tensor, "rows heads keys width_v"]
    mask: Shaped[Tensor, ...] | None
    scale: float
    rows: tuple[Row, ...]
    kernel: Callable[[Any], Tensor] = field(repr=False)
    fused: Callable[[Any], tuple[Tensor, Tensor] | None] = field(repr=False)
    project: Callable[[Tensor], tuple[Tensor, Tensor]] = field(repr=False)
    replaced: Mapping[int, Shaped[Tensor, "heads queries keys"]] = field(default_factory=dict, repr=False)
    given: frozenset[int] = field(default=frozenset(), repr=False)
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def with_probs(self: Kind, probs: Shaped[Tensor, "rows heads queries keys"]) -> Kind:
        """Return the same call with other probabilities, given for all rows, heads, queries and keys."""
        expected = (*self.query.shape[:3], self.key.shape[-2])
        if tuple(probs.shape) != expected:
            raise ValueError(f"with_probs needs [rows, heads, queries, keys] = {expected}, not {tuple(probs.shape)}")
        return self._changed(replaced=dict(enumerate(probs)))

    def masked(self: Kind, keep: Bool[Tensor, "#rows #heads queries keys"]) -> Kind:
        """Return the same call with some keys masked out: softmax runs over the kept keys only.

        Args:
            keep: True where a query may attend to a key; broadcasts over rows and heads, ``[1, 1, queries, keys]``.

        Raises ValueError for another shape, and if a query has no key left.
        """
        expected = (*self.query.shape[:3], self.key.shape[-2])
        if (
            keep.dtype != torch.bool
            or keep.ndim != 4
            or any(n not in (1, m) for n, m in zip(keep.shape, expected, strict=True))
        ):
            raise ValueError(f"masked needs booleans [rows, heads, queries, keys] = {expected}, not {said(keep)}")
        each = keep.expand(len(self.query), -1, -1, -1)
        kept = {k: probs * each[k] for k, probs in self.replaced.items()}
        _refuse_blind(*(probs != 0 for probs in kept.values()))
        replaced = {k: _of_same_sum(probs, self.replaced[k]) for k, probs in kept.items()}
        if len(replaced) == len(self.query):
            return self._changed(replaced=replaced)
        mask = keep if self.mask is None else self.mask
        if self.mask is not None:
            mask = mask & keep if mask.dtype == torch.bool else mask.masked_fill(~keep, -math.inf)
        _refuse_blind(mask if mask.dtype == torch.bool else mask > -math.inf)
        return self._changed(mask=mask, replaced=replaced, kernel=by_own_mask, fused=lambda own: None)

    def biased(self: Kind, bias: Float[Tensor, "#rows #heads #queries keys"]) -> Kind:
        """Return the same call with a number added to every score, before the softmax.

        Args:
            bias: broadcasts over rows, heads and queries. Where probabilities were replaced, they are multiplied by
                exp(bias), and those of a place have the same sum as before.
        """
        expected = (*self.query.shape[:3], self.key.shape[-2])
        if (
            not bias.is_floating_point()
            or bias.ndim != 4
            or any(n not in (1, m) for n, m in zip(bias.shape, expected, strict=True))
        ):
            raise ValueError(f"biased needs numbers [rows, heads, queries, keys] = {expected}, not {said(bias)}")
        factors = (bias - bias.amax(-1, keepdim=True)).exp().expand(len(self.query), -1, -1, -1)
        replaced = {k: _of_same_sum(own * factors[k].to(own), own) for k, own in self.replaced.items()}
        mask = self.mask
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=self.query.dtype).masked_fill(~mask, -math.inf)
        bias = bias.to(self.query) if mask is None else mask + bias.to(mask)
        return self._changed(mask=bias, replaced=replaced, kernel=by_own_mask, fused=lambda own: None)

    def with_query(self: Kind, query: Shaped[Tensor, "rows heads queries width"]) -> Kind:
        """Return the same call with another query. Raises ValueError where its probabilities were replaced."""
        if query.shape != self.query.shape:
            raise ValueError(f"with_query needs {tuple(self.query.shape)}, not {tuple(query.shape)}")
        self._refuse_replaced("query")
        return self._changed(query=query)

    def with_keys(
        self: Kind,
        key: Shaped[Tensor, "rows heads keys_new width"],
        value: Shaped[Tensor, "rows heads keys_new width_v"],
    ) -> Kind:
        """Return the same call with other keys and their values, which may be more or fewer than before.

        Further keys stand best after the call's own, whose positions `Site` knows. A mask keeps its columns for the
        first keys; further keys are not masked.

        Raises ValueError for another shape, and where its probabilities were replaced.
        """
        self._refuse_replaced("keys")
        count = key.shape[2]
        for name, new, own in (("key", key, self.key), ("value", value, self.value)):
            if (*new.shape[:2], *new.shape[3:]) != (*own.shape[:2], *own.shape[3:]) or new.shape[2] != count:
                raise ValueError(f"with_keys needs a {name} like {list(own.shape)}, of {count} keys, not {said(new)}")
        if self.mask is None:
            return self._changed(key=key, value=value)
        mask = self.mask.expand(*self.query.shape[:-1], self.key.shape[-2])[..., :count]
        mask = F.pad(mask, (0, count - mask.shape[-1]), value=mask.dtype == torch.bool)
        return self._changed(key=key, value=value, mask=mask, kernel=by_own_mask, fused=lambda own: None)

    def with_value(self: Kind, value: Shaped[Tensor, "rows heads keys width_v"]) -> Kind:
        """Return the same call with another value."""
        if value.shape != self.value.shape:
            raise ValueError(f"with_value needs {tuple(self.value.shape)}, not {tuple(value.shape)}")
        return self._changed(value=value)

    def with_context(
        self: Kind, context: Shaped[Tensor, "rows tokens width"], keep: Bool[Tensor, "rows tokens"] | None = None
    ) -> Kind:
        """Return the same call with key and value computed from other prompt embeddings, at this site only.

        Args:
            context: the prompt embeddings; of more or fewer tokens too, if the call has no mask of its own tokens.
            keep: which of these tokens are looked at, where that is not for the call's own mask to say; it takes its
                place.

        Raises ValueError in self-attention, which has no prompt embeddings, and in joint attention, which has its own;
        and for another number of tokens where the call has a mask and there is no ``keep``.
        """
        if len(context) != len(self.query):
            raise ValueError(f"with_context needs one entry for each of {len(self.query)} rows, not {len(context)}")
        # Some modules copy the keys that several heads share, before the call.
        key, value = (per_head(x, self.key) for x in self.project(context))
        if keep is not None:
            if keep.shape != context.shape[:2]:
                raise ValueError(f"keep says of each token {list(context.shape[:2])} if it is seen, not {said(keep)}")
            bare = self._changed(mask=None, kernel=by_own_mask, fused=lambda own: None).with_keys(key, value)
            return bare if bool(keep.all()) else bare.masked(keep[:, None, None].to(key.device))
        if self.mask is not None and key.shape[2] != self.key.shape[2]:
            raise ValueError(
                f"the call has a mask of its {self.key.shape[2]} tokens, which says nothing of {key.shape[2]} others: "
                f"say by keep which of them are looked at"
            )
        return self.with_keys(key, value)

    def with_output(self: Kind, output: Shaped[Tensor, "rows heads queries width_v"]) -> Kind:
        """Return the same call with another output, whatever its probabilities and value.

        What else of the call is changed afterwards would take this output away, and is refused.
        """
        expected = (*self.query.shape[:3], self.value.shape[-1])
        if tuple(output.shape) != expected:
            raise ValueError(f"with_output needs [rows, heads, queries, width] = {expected}, not {tuple(output.shape)}")
        return replace(self, given=frozenset(range(len(self.query))), _made={"output": output})

    def _changed(self: Kind, **changes: Any) -> Kind:
        if self.given:
            raise ValueError(
                "a hook before this one has given the output of this attention call itself, and a change of its "
                "probabilities, keys or values would take that away: put hooks that give an output, such as "
                "RegionalPrompts and ShareAttention, after the others"
            )
        return replace(self, **changes, _made={})

    def _refuse_replaced(self, name: str) -> None:
        if self.replaced:
            raise ValueError(
                f"a hook before this one has replaced probabilities of this attention call, which other {name} would "
                f"undo: put the hook that replaces them after this one"
            )


def by_own_mask(attn: AttentionCall) -> Tensor:
    """Run torch's kernel with the call's own mask, for calls whose mask was replaced."""
    key, value = (per_head(x, attn.query) for x in (attn.key, attn.value))
    return F.scaled_dot_product_attention(attn.query, key, value, attn_mask=attn.mask, scale=attn.scale)


def per_head(x: Tensor, query: Tensor) -> Tensor:
    """Return keys or values with an entry for every head of the query, where several heads share one.

    Args:
        x: ``[rows, groups, keys, width]``.
        query: ``[rows, heads, queries, width]``, or keys of so many heads.
    """
    return x if x.shape[1] == query.shape[1] else x.repeat_interleave(query.shape[1] // x.shape[1], 1)


def _refuse_blind(*seen: Bool[Tensor, "... queries keys"]) -> None:
    if not all(bool(own.any(-1).all()) for own in seen):
        raise ValueError("masked leaves some query no key to look at")


def _of_same_sum(
    new: Float[Tensor, "heads queries keys"], old: Float[Tensor, "heads queries keys"]
) -> Float[Tensor, "heads queries keys"]:
    """Return probabilities scaled so that those of each query have the sum of others, exactly where they are equal."""
    sums, before = new.sum(-1, keepdim=True), old.sum(-1, keepdim=True)
    return torch.where(sums == before, new, new * (before / sums))
