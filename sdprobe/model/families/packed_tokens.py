"""`PackedTokens`: base class of the families whose network is shown latents as tokens, of the image and others."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.run import Settings
from sdprobe.model.families.transformer import TransformerModel
from sdprobe.model.pipeline_parts import Latents


class PackedTokens(TransformerModel):
    """A family whose pipelines hold latents as tokens.

    The network may be shown a picture in further channels (Flux Fill), or the tokens of other pictures after those of
    the image (Flux Kontext, Flux.2, Qwen-Image-Edit). Hooks get the image's latents alone. The noise levels are shifted
    for the number of its tokens.
    """

    @property
    def sets_begin_index(self) -> bool:
        return True

    def set_timesteps(self, scheduler: Any, settings: Settings, device: torch.device) -> None:
        self.set_sigmas(scheduler, settings, device, mu=self.shift(scheduler, settings, 1.15))

    def rows_of(self, shown: Tensor) -> Shaped[Tensor, "rows places packed"]:
        h, w = self.latent_size(self.settings)
        return shown[:, : h * w // self.patch**2, : self.channels * self.patch**2]

    def shown_as(self, rows: Shaped[Tensor, "rows places packed"], like: Tensor) -> Tensor:
        return _within(rows, like)

    def output_of(self, answer: Tensor, *size: int) -> Latents:
        h, w = size
        return self.unpacked(answer[:, : h * w // self.patch**2], *size)

    def answer_of(self, output: Latents, like: Tensor) -> Tensor:
        return _within(self.packed(output), like)


def _within(rows: Shaped[Tensor, "rows places packed"], like: Tensor) -> Shaped[Tensor, "rows all_places width"]:
    """Return a tensor like another, with rows in the place of its first places and channels."""
    if rows.shape == like.shape:
        return rows.to(like.dtype)
    whole = like.clone()
    whole[:, : rows.shape[1], : rows.shape[2]] = rows
    return whole
