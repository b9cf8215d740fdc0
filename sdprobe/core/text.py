"""`Text`: the second argument at the text points: which encoder, which prompts, which role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.encoded_prompts import Conditioned
from sdprobe.core.prompt import Prompt
from sdprobe.core.rows import Role
from sdprobe.core.run import Run


@dataclass(frozen=True)
class Text:
    """The second argument at the text points: which encoder, prompts and role.

    Args:
        encoder: the encoder's name in the pipeline, for example ``"text_encoder"``. With several encoders,
            ``token_embeds`` is called for each, and ``prompt_embeds`` once for all together; there the name joins those
            of the encoders, ``"text_encoder+text_encoder_2"``; at ``pooled_embeds``, of those that made the vector.
        prompts: one prompt per batch entry, as this encoder reads it; its positions are those of the value's tokens.
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative prompts.
        run: the run.
        lookup: returns a word's token embeddings ``[tokens, width]`` from this encoder's table.
        encode: encodes other texts, without hooks, and returns prompt embeddings ``[texts, tokens, width]``; at
            ``pooled_embeds``, pooled vectors ``[texts, width]``.
        encode_all: the same, with everything that is made of the texts (`Conditioned`), such as the tokens' mask.
        layers: returns the hidden states of these prompts in every layer, after the transforms at ``token_embeds`` and
            the encoder's final norm; the last are the values that enter ``prompt_embeds``, but for weights of words.
        again: encodes these prompts again with the current transforms and returns the result (`Conditioned`).
    """

    encoder: str
    prompts: tuple[Prompt, ...]
    role: Role
    run: Run = field(repr=False)
    lookup: Callable[[str], Float[Tensor, "tokens width"]] = field(repr=False)
    encode: Callable[[Sequence[str]], Shaped[Tensor, "texts ..."]] = field(repr=False)
    encode_all: Callable[[Sequence[str]], Conditioned] = field(repr=False)
    layers: Callable[[], tuple[Shaped[Tensor, "batch tokens width"], ...]] = field(repr=False)
    again: Callable[[], Conditioned] = field(repr=False)
