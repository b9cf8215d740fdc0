"""The table a text encoder looks its tokens up in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.model import clip_model, loading
from sdprobe.model.base import Model
from sdprobe.model.clip_model import Clip


class Vocabulary:
    """What a text encoder knows tokens by: their spellings, and the vector of each in its table.

    Args:
        model: a `Clip`, what `sdprobe.clip.load` makes one of, a `Model`, or a live diffusers pipeline. Of the last two
            the first text encoder is taken.
    """

    def __init__(self, model: Clip | Model | DiffusionPipeline | str | Path | None) -> None:
        self._own: Model | Clip
        self._read: Callable[[str], Prompt]
        self._tokenizer: Any
        if isinstance(model, (Model, DiffusionPipeline)):
            self._own = own = loading.load(model)
            first = own.text_encoders[0]
            self._read = partial(own.read, encoder=first)
            self._tokenizer, encoder = own.tokenizer_of(first), getattr(own.pipe, first)
        else:
            self._own = tower = clip_model.load(model)
            self._read, self._tokenizer, encoder = tower.read, tower.tokenizer, tower.model.text_model
        self._table = encoder.get_input_embeddings()

    def of(self, word: str) -> Float[Tensor, "tokens width"]:
        """The vectors of a word's tokens."""
        prompt = self._read(word)
        ids = [number for number, role in zip(prompt.ids, prompt.roles, strict=True) if role == "word"]
        if not ids:
            raise ValueError(f"{word!r} has no token")
        return self._looked_up(ids)

    def all(self) -> Float[Tensor, "vocabulary width"]:
        """The whole table, a row per token."""
        return self._looked_up(range(min(len(self._tokenizer), self._table.num_embeddings)))

    def spelt(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Tokens as they are written in the vocabulary."""
        return tuple(self._tokenizer.convert_ids_to_tokens(list(ids)))

    def _looked_up(self, ids: Sequence[int]) -> Tensor:
        # By `forward`, which brings an offloaded table.
        found: Tensor = self._table.forward(torch.tensor(list(ids), device=self._own.device))
        return found.detach()

    def __repr__(self) -> str:
        return f"Vocabulary of {self._own!r}"
