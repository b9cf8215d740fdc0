"""`OneStream`: base class of the families that refine text and image each by itself, then both on one axis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sdprobe.core.run import Settings
from sdprobe.model.denoiser.token_layout import Layout
from sdprobe.model.families.transformer import TransformerModel
from sdprobe.model.pipeline_parts import Latents


class OneStream(TransformerModel):
    """A family whose transformer has text and image on one axis, after blocks that refine each by itself.

    Sites in ``context_refiner`` have the kind ``"text"``, those in ``noise_refiner`` ``"self"``, and those in
    ``layers`` ``"joint"``. The network predicts the opposite of what the scheduler takes; hooks get the scheduler's
    sign.
    """

    def attention_kind(self, module: nn.Module) -> str | None:
        if super().attention_kind(module) is None:
            return None
        if _is_in(self.denoiser.context_refiner, module):
            return "text"
        return "self" if _is_in(self.denoiser.noise_refiner, module) else "joint"

    def layout(self, settings: Settings) -> Layout:
        return replace(super().layout(settings), one_stream=True)

    def refuse_beside(self) -> None:
        raise ValueError(
            f"{type(self).__name__} has text and image on one axis, with no place for tokens between them: further "
            f"tokens cannot be put beside the prompt"
        )

    def output_of(self, answer: Any, *size: int) -> Latents:
        return torch.neg(answer)

    def answer_of(self, output: Latents, like: Any) -> Any:
        return -output.to(like.dtype)


def _is_in(part: nn.Module, module: nn.Module) -> bool:
    return any(module is own for own in part.modules())
