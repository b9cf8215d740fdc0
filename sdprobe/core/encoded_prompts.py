"""`Conditioned`: encoded prompts, as the denoiser receives them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioned:
    """Encoded prompts after every encoder and hook, one entry per prompt.

    Args:
        embeds: the value as it leaves ``prompt_embeds``.
        arguments: every denoiser argument made from the prompts, ``embeds`` included, by argument name.
    """

    embeds: Shaped[Tensor, "batch tokens width"] = field(repr=False)
    arguments: Mapping[str, Shaped[Tensor, "batch ..."]] = field(repr=False)

    @property
    def seen(self) -> Bool[Tensor, "batch tokens"]:
        """Which tokens the denoiser looks at: all, or those that its mask of the text keeps."""
        mask = self.arguments.get("encoder_attention_mask")
        return torch.ones(self.embeds.shape[:2], dtype=torch.bool) if mask is None else mask.bool().cpu()

    @property
    def told(self) -> Mapping[str, Shaped[Tensor, "batch ..."]]:
        """The old name of `arguments`."""
        warnings.warn("Conditioned.told is called arguments now", DeprecationWarning, stacklevel=2)
        return self.arguments

    def of(self, entries: list[int]) -> Conditioned:
        """Return the entries of some of the prompts."""
        return Conditioned(self.embeds[entries], {name: x[entries] for name, x in self.arguments.items()})
