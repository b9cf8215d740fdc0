"""The prompts that a pipeline reads: told from the arguments of its call, or of a call of its ``encode_prompt``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.prompt_of_embeddings import PromptOfEmbeddings
from sdprobe.model.base import Model

Side = Literal["prompt", "negative_prompt"]

GIVEN = "(prompt_embeds)"
"""What stands for a text of which only the embeddings were given."""


def texts_of(given: Mapping[str, Any], side: Side) -> tuple[str, ...]:
    """The texts of the prompts, or of the negative prompts, as the first encoder is given them."""
    text, embeds = given.get(side), given.get(f"{side}_embeds")
    if text is None and embeds is not None:
        return (GIVEN,) * len(embeds)
    return (text or "",) if text is None or isinstance(text, str) else tuple(text)


def read_prompts(model: Model, given: Mapping[str, Any], side: Side, count: int | None = None) -> tuple[Prompt, ...]:
    """The prompts of one side, as the model reads them: each encoder the text that it is given.

    Args:
        model: the model.
        given: arguments by name: ``prompt``, ``prompt_2``, ``prompt_3`` and their like.
        side: ``"prompt"`` or ``"negative_prompt"``.
        count: how many prompts there are, where one text stands for all.
    """
    first, model = texts_of(given, side), model.of_role("uncond" if side == "negative_prompt" else "cond")
    first = first * count if count is not None and len(first) == 1 else first
    return tuple(
        PromptOfEmbeddings.by(_embeds_of(given[f"{side}_embeds"], i))
        if text == GIVEN
        else model.read_each({encoder: _text_for(encoder, given, side, i, text) for encoder in model.text_encoders})
        for i, text in enumerate(first)
    )


def _embeds_of(given: Any, i: int) -> Tensor:
    """Return the embeddings of a prompt among those given: one tensor for all, or a list with one for each."""
    own: Tensor = given[i][None] if isinstance(given, list) else given
    return own


def _text_for(encoder: str, given: Mapping[str, Any], side: Side, i: int, first: str) -> str:
    """The text of one encoder: ``text_encoder_2`` is given ``prompt_2``, where there is one, else ``prompt``."""
    own = given.get(encoder.replace("text_encoder", side)) or first
    text: str = own if isinstance(own, str) else own[i]
    return text
