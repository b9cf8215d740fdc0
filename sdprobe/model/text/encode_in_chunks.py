"""`reading_in_chunks`: a model that reads prompts beyond its context in chunks, each encoded by itself.

The tokens of a text are cut into pieces that fit between the start and the end of CLIP's context. Each piece is given
to the pipeline's own `encode_prompt` as a text of its own, and the results stand side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from transformers import BatchEncoding

from sdprobe.core.compose import Hooks
from sdprobe.core.prompt import Prompt
from sdprobe.core.rows import side_of
from sdprobe.core.run import Role, Run, Settings
from sdprobe.model.base import Model
from sdprobe.model.outside_modules import hooks_in_encoders
from sdprobe.model.text.conditioning import EMBEDS, Conditioning
from sdprobe.model.text.tokenize_prompt import chunks_of, in_chunks, read


def reading_in_chunks(run_model: Model, settings: Settings) -> Model:
    """Return a run's model as it reads the run's prompts: in as many chunks as the longest takes, if it is asked to.

    A negative prompt counts only where there are rows of it.
    """
    if not settings.chunks:
        return run_model
    sides = {side_of(role) for role in run_model.roles(settings.guidance_scale)}
    texts = map(run_model.plain, (*settings.prompt, *(settings.negative_prompt if "uncond" in sides else ())))
    readers = [(run_model.tokenizer_of(name), run_model.length(name)) for name in run_model.text_encoders]
    chunks = max(chunks_of(own, run_model.spelt(text, own), length) for text in texts for own, length in readers)
    if chunks == 1:
        return run_model
    chunked = object.__new__(_chunked(type(run_model)))
    vars(chunked).update(vars(run_model), chunks=chunks)
    return chunked


def refuse_chunks(model: Model) -> None:
    """Raise ValueError, with the reason, for a model whose prompts cannot be read in chunks."""
    name, shown = type(model).__name__, [encoder for encoders in model.token_axis for encoder in encoders]
    kinds = {encoder: _kind(model, encoder) for encoder in shown if encoder in model.text_encoders}
    if "t5" not in " ".join(kinds.values()) and len(model.token_axis) == 1:
        return
    reads = max(model.length(encoder) for encoder in kinds)
    if len(model.token_axis) == 1:
        raise ValueError(
            f"chunks are for prompts that CLIP reads, whose context is short; those of {name} are read by T5, which "
            f"reads {reads} tokens at once: leave chunks out"
        )
    raise ValueError(
        f"chunks are for models that read prompts by CLIP alone; {name} shows its network CLIP's tokens and T5's side "
        f"by side, one reading of each, and T5 reads {reads} tokens at once: leave chunks out"
    )


class InChunks(Model):
    """What a family does otherwise where it reads in chunks; `reading_in_chunks` puts it before the family's class.

    Attributes:
        chunks: how many chunks every prompt of the run has.
    """

    chunks: int

    def read(self, text: str, encoder: str | None = None) -> Prompt:
        if encoder is None:
            return super().read(text)  # which reads for each encoder by this method
        tokenizer = self.tokenizer_of(encoder)
        return read(tokenizer, text, self.spelt(text, tokenizer), self.length(encoder), self.chunks)

    def encoded(self, texts: list[str]) -> Mapping[str, Shaped[Tensor, "entries ..."]]:
        pieces = copy.copy(self)
        pieces.pipe = copy.copy(self.pipe)
        for encoder in self.text_encoders:
            tokenizer = self.tokenizer_of(encoder)
            own = Pieces(tokenizer, self.spelt, self.length(encoder), self.chunks)
            setattr(pieces.pipe, encoder.replace("text_encoder", "tokenizer"), own)
        if hasattr(pieces.pipe, "maybe_convert_prompt"):
            pieces.pipe.maybe_convert_prompt = _as_it_is  # the pieces are cut from the converted text
        each = [text for text in texts for _ in range(self.chunks)]
        found = super(InChunks, pieces).encoded(each)  # type: ignore[safe-super]  # the family's, which comes next
        return {
            name: x.reshape(len(texts), -1, x.shape[-1]) if name == EMBEDS else x[:: self.chunks]
            for name, x in found.items()
        }

    def encode(self, run: Run, hooks: Hooks, roles: Sequence[Role]) -> Conditioning:
        if inside := [str(own) for own in hooks_in_encoders(self, hooks)]:
            raise ValueError(
                f"{', '.join(inside)} asks for modules of a text encoder, which reads the {self.chunks} chunks of a "
                f"prompt as {self.chunks} texts: in there, a prompt has no places of its own. Leave chunks out, or "
                f"give each chunk as a prompt"
            )
        return super().encode(run, hooks, roles)


class Pieces:
    """In the place of a pipeline's tokenizer: of several copies of a text, each is read as its own piece of it.

    Args:
        tokenizer: the tokenizer.
        spelt: returns a text as the pipeline passes it to a tokenizer.
        length: the number of tokens of a piece, with its start, end and padding.
        chunks: how many pieces, and copies, there are of each text.
    """

    def __init__(self, tokenizer: Any, spelt: Callable[[str, Any], str], length: int, chunks: int) -> None:
        self.tokenizer, self.spelt, self.length, self.chunks = tokenizer, spelt, length, chunks

    def __call__(self, texts: Sequence[str], **options: Any) -> BatchEncoding:
        found = [
            in_chunks(self.tokenizer, self.spelt(text, self.tokenizer), self.length, self.chunks)
            for text in texts[:: self.chunks]
        ]
        both = ("input_ids", "attention_mask")
        return BatchEncoding({k: torch.tensor([own[k] for own in found]).reshape(-1, self.length) for k in both})

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["tokenizer"], name)


@cache
def _chunked(family: type[Model]) -> type[InChunks]:
    return type(f"{family.__name__}InChunks", (InChunks, family), {})


def _kind(model: Model, encoder: str) -> str:
    return str(getattr(model.pipe, encoder).config.model_type)


def _as_it_is(prompt: Any, tokenizer: Any) -> Any:
    return prompt
