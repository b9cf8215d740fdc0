"""`reading_texts`: texts as a model's denoiser is shown them, encoded outside a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.concept import Concept
from sdprobe.core.prompt import Prompt
from sdprobe.model.base import Model
from sdprobe.model.text.added_tokens import add_to_tokenizers
from sdprobe.model.text.conditioning import EMBEDS


class ShownText(NamedTuple):
    """A text as a denoiser with cross-attention is shown it.

    Attributes:
        prompt: the text with its tokens.
        embeds: its prompt embeddings, of every token.
        seen: the positions of the tokens that the denoiser looks at: all, or those that its mask keeps.
    """

    prompt: Prompt
    embeds: Shaped[Tensor, "tokens width"]
    seen: list[int]


@contextmanager
def reading_texts(model: Model, words: Mapping[str, Concept]) -> Iterator[Callable[[Sequence[str]], list[ShownText]]]:
    """While this is open, the model is locked, and a function encodes texts as prompts; without gradients.

    Args:
        model: the model.
        words: concepts that it does not know by itself.
    """
    own = copy.copy(model)
    own.pipe = copy.copy(model.pipe)
    own.added_tokens = add_to_tokenizers(own.pipe, words, own.spelt)

    def read(texts: Sequence[str]) -> list[ShownText]:
        with torch.no_grad():
            told = own.encoded(list(texts))
        masks = told.get("encoder_attention_mask")
        found = []
        for i, text in enumerate(texts):
            embeds = told[EMBEDS][i]
            seen = range(len(embeds)) if masks is None else masks[i].bool().nonzero().flatten().tolist()
            found.append(ShownText(own.read(text), embeds, list(seen)))
        return found

    with model.lock(), torch.inference_mode(False), own.add_tokens():
        yield read
