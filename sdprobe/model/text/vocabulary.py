"""`Vocabulary`: the table of token embeddings of a text encoder."""

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
    """The tokens of a text encoder: their spelling, and their vectors in its table.

    Args:
        model: a `Clip`, anything that `sdprobe.clip.load` takes, a `Model`, or a live diffusers pipeline. For the last
            two, the first text encoder is used.
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
        """Return the vectors of a word's tokens."""
        prompt = self._read(word)
        ids = [number for number, role in zip(prompt.ids, prompt.roles, strict=True) if role == "word"]
        if not ids:
            raise ValueError(f"{word!r} has no token")
        return self._looked_up(ids)

    def all(self) -> Float[Tensor, "vocabulary width"]:
        """Return the whole table, a row per token."""
        return self._looked_up(range(min(len(self._tokenizer), self._table.num_embeddings)))

    def spelt(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return tokens as they are written in the vocabulary."""
        return tuple(self._tokenizer.convert_ids_to_tokens(list(ids)))

    def _looked_up(self, ids: Sequence[int]) -> Tensor:
        # By `forward`, which loads an offloaded table.
        found: Tensor = self._table.forward(torch.tensor(list(ids), device=self._own.device))
        return found.detach()

    def __repr__(self) -> str:
        return f"Vocabulary of {self._own!r}"
