"""`AlignedRows`: rows whose image follows texts of different lengths, with all images at the same positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class AlignedRows:
    """The order of the tokens of rows in one call of a network.

    The network has, in each row, the text, then the image, then padding up to the longest row. Hooks are shown the
    text, then the padding, then the image, so that image and text have one range each for all rows.

    Args:
        lengths: the number of text tokens of each row.
        places: the number of image positions.
    """

    lengths: tuple[int, ...]
    places: int

    @property
    def tokens(self) -> int:
        """The number of tokens of a row."""
        return max(self.lengths) + self.places

    def fits(self, x: Tensor) -> bool:
        """Whether a tensor is ``[rows, tokens, width]``, of these rows and tokens."""
        return x.ndim == 3 and x.shape[:2] == (len(self.lengths), self.tokens)

    def shown(self, x: Shaped[Tensor, "rows ..."], axis: int) -> Shaped[Tensor, "rows ..."]:
        """Return a tensor of the network, with tokens on an axis, in the hooks' order."""
        return self._ordered(x, axis, inverse=False)

    def own(self, x: Shaped[Tensor, "rows ..."], axis: int) -> Shaped[Tensor, "rows ..."]:
        """Return a tensor in the hooks' order as the network has it: the inverse of `shown`."""
        return self._ordered(x, axis, inverse=True)

    def call(
        self,
        stock: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[Any, ...], dict[str, Any], Callable[..., Tensor]]:
        """Return an attention call in the hooks' order: query, key, other arguments, and the function.

        The function calls the stock one with tensors in the network's order, so that the same tensors have the same
        output to the last bit.
        """
        mask = attn_mask if attn_mask is None or attn_mask.shape[-1] == 1 else self.shown(attn_mask, attn_mask.ndim - 1)

        def called(query: Tensor, key: Tensor, value: Tensor, *further: Any, **named: Any) -> Tensor:
            own = (self.own(x, 2) for x in (query, key, value))
            if "attn_mask" in named:
                named["attn_mask"] = attn_mask
            return self.shown(stock(*own, *further, **named), 2)

        return self.shown(query, 2), self.shown(key, 2), (self.shown(value, 2), mask, *args), kwargs, called

    def _ordered(self, x: Tensor, axis: int, inverse: bool) -> Tensor:
        rows = [row.index_select(axis - 1, self._order(k, inverse).to(x.device)) for k, row in enumerate(x)]
        return torch.stack(rows)

    def _order(self, row: int, inverse: bool) -> Tensor:
        """Return the network's position of each token in the hooks' order, or the inverse."""
        length, every = self.lengths[row], torch.arange(self.tokens)
        text, image, padding = every[:length], every[length : length + self.places], every[length + self.places :]
        order = torch.cat([text, padding, image])
        return order.argsort() if inverse else order
