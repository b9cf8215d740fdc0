"""Prompts on their way to the denoiser, where they have passed every encoder and every hook."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioned:
    """What has become of prompts, with an entry for each.

    Args:
        embeds: their value as it leaves ``prompt_embeds``.
        arguments: all that the denoiser is told of them, that value among it, by the names of its arguments.
    """

    embeds: Shaped[Tensor, "batch tokens width"] = field(repr=False)
    arguments: Mapping[str, Shaped[Tensor, "batch ..."]] = field(repr=False)

    @property
    def told(self) -> Mapping[str, Shaped[Tensor, "batch ..."]]:
        """The old name of `arguments`."""
        warnings.warn("Conditioned.told is called arguments now", DeprecationWarning, stacklevel=2)
        return self.arguments

    def of(self, entries: list[int]) -> Conditioned:
        """That of some of the prompts."""
        return Conditioned(self.embeds[entries], {name: x[entries] for name, x in self.arguments.items()})
