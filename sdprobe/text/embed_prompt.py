"""`embed`: every stage of a text encoder's pass over a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.model.model_lock import RunUnderWay


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """The stages of a text encoder's pass over prompts, first to last.

    Attributes:
        prompts: the prompts, with the positions of every word.
        token: token embeddings, ``[batch, tokens, width]``: the value at the point ``token_embeds``.
        position: position embeddings, ``[tokens, width]``.
        input: their sum, ``[batch, tokens, width]``: the input of the first layer.
        hidden_states: ``input``, then each layer's output, ``[batch, tokens, width]`` each.
        last_hidden_state: the last layer's output after the final norm.
        pooled: ``last_hidden_state`` at the end token, ``[batch, width]``.
    """

    prompts: tuple[Prompt, ...]
    token: Shaped[Tensor, "batch tokens width"]
    position: Shaped[Tensor, "tokens width"]
    input: Shaped[Tensor, "batch tokens width"]
    hidden_states: tuple[Shaped[Tensor, "batch tokens width"], ...]
    last_hidden_state: Shaped[Tensor, "batch tokens width"]
    pooled: Shaped[Tensor, "batch width"]

    def __repr__(self) -> str:
        def size(x: Tensor) -> str:
            return " × ".join(map(str, x.shape))

        return "\n".join(
            [
                f"Embeddings of {', '.join(repr(prompt.text) for prompt in self.prompts)}",
                f"  token              {size(self.token)}",
                f"  position           {size(self.position)}",
                f"  input              {size(self.input)}",
                f"  hidden_states      {len(self.hidden_states)} of {size(self.hidden_states[0])}",
                f"  last_hidden_state  {size(self.last_hidden_state)}",
                f"  pooled             {size(self.pooled)}",
            ]
        )


def embed(
    model: Model | Any,
    prompt: str | Sequence[str],
    *,
    input: Shaped[Tensor, "batch tokens width"] | None = None,
) -> Embeddings:
    """Run a model's text encoder on one or more prompts and return every stage.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> made = sdprobe.embed(model, "a red circle")
    >>> made
    Embeddings of 'a red circle'
      token              1 × 32 × 96
      position           32 × 96
      input              1 × 32 × 96
      hidden_states      3 of 1 × 32 × 96
      last_hidden_state  1 × 32 × 96
      pooled             1 × 96
    >>> again = sdprobe.embed(model, "a red circle", input=made.input)
    >>> bool((again.last_hidden_state == made.last_hidden_state).all())
    True

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        prompt: one text or several.
        input: input embeddings ``[batch, tokens, width]`` for the first layer, instead of the prompt's own; the prompt
            then only gives the position of the end token.

    Raises:
        ValueError: for input embeddings of another shape than the prompt's own; for an encoder that is not CLIP's.
        RuntimeError: if called by a hook during a run of the model; the message names the alternatives.
    """
    own = load(model)
    texts = [prompt] if isinstance(prompt, str) else prompt
    prompts = tuple(own.read(text, own.text_encoders[0]) for text in texts)
    try:
        with own.lock(), torch.no_grad():
            return Embeddings(prompts, *own.text_states(prompts, input))
    except RunUnderWay as error:
        raise RuntimeError(
            "embed cannot be called by a hook while a run of its model is under way: at the points of the text, "
            "text.encode([...]) gives what other texts would be there, and text.lookup(word) a word's vectors; or call "
            "embed before the run"
        ) from error
