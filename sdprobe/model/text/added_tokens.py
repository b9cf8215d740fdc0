"""`AddedTokens`: words that hooks add to a run. The run has its own tokenizer that knows them, and while it runs the
encoder uses their vectors. The pipeline's tokenizer and the encoder's table are not changed or resized.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from sdprobe.core.concept import Concept

Told = Callable[[str, Any], str]


@dataclass(frozen=True)
class AddedTokens:
    """The new tokens of one encoder: number and vector ``[width]`` of each."""

    vectors: Mapping[int, Shaped[Tensor, " width"]] = field(default_factory=dict)

    def known(self, ids: Int[Tensor, "*batch tokens"]) -> Int[Tensor, "*batch tokens"]:
        """Replace new token numbers by one that the encoder's own table has."""
        return torch.where(self._new(ids), torch.zeros_like(ids), ids)

    def placed(self, x: Shaped[Tensor, "*batch tokens width"], ids: Int[Tensor, "*batch tokens"]) -> Tensor:
        """Return the table's output with the vectors of the new tokens inserted."""
        for number, vector in self.vectors.items():
            x = torch.where((ids == number).to(x.device)[..., None], vector.to(x), x)
        return x

    def looked_up(self, table: nn.Module, ids: Int[Tensor, "*batch tokens"]) -> Tensor:
        """Return the embeddings of tokens, old and new."""
        # By `forward`, which loads an offloaded table but does not call the hooks of the point.
        return self.placed(table.forward(self.known(ids)), ids)

    @contextmanager
    def add_to(self, table: nn.Module) -> Iterator[None]:
        """While this is open, an encoder's table knows the new tokens too."""
        asked: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            asked[:] = args[:1]
            return (self.known(args[0]), *args[1:])

        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return self.placed(output, asked.pop())

        with ExitStack() as handles:
            for handle in (table.register_forward_pre_hook(before), table.register_forward_hook(after)):
                handles.callback(handle.remove)
            yield

    def _new(self, ids: Int[Tensor, "*batch tokens"]) -> Tensor:
        return torch.isin(ids, torch.tensor(list(self.vectors), dtype=ids.dtype, device=ids.device))


def add_to_tokenizers(pipe: Any, concepts: Mapping[str, Concept], told: Told) -> Mapping[str, AddedTokens]:
    """Give a copy of a pipeline tokenizers that know the new tokens. Returns the new tokens of each encoder.

    A concept of several vectors has several tokens, ``<a>``, ``<a>_1``, …, the names that diffusers'
    `maybe_convert_prompt` uses. It is replaced here, to find a token in upper or lower case anywhere in a text: CLIP's
    tokenizers use lower case, and diffusers does not find a token with capitals in their output.

    Args:
        pipe: the run's own copy of the pipeline.
        concepts: by token.
        told: returns a text as the pipeline passes it to a tokenizer. Some pipelines change it, for example to lower
            case.

    Raises:
        ValueError: for a concept of other encoders or another width, for a token that exists already, for one that the
            pipeline removes from every text, and for several vectors if the pipeline cannot write them as several
            tokens.
    """
    if not concepts:
        return MappingProxyType({})
    encoders = {name: part for name, part in sorted(pipe.components.items()) if _is_encoder(name, part)}
    plain, spells_out = copy.copy(pipe), hasattr(pipe, "maybe_convert_prompt")
    for token, concept in concepts.items():
        _refuse_unfit(token, concept, encoders)
        if len(concept) > 1 and not spells_out:
            raise ValueError(
                f"{token!r} is {len(concept)} vectors, and diffusers knows no textual inversion for "
                f"{type(pipe).__name__}: it would be read with its first vector only"
            )
    found, before = {}, {}
    for name in encoders:
        key = name.replace("text_encoder", "tokenizer")
        held = copy.deepcopy(getattr(pipe, key))
        tokenizer = getattr(held, "tokenizer", held)  # Flux.2 dev has a processor of texts and pictures
        vectors: dict[int, Tensor] = {}
        for token, concept in concepts.items():
            names = _names(token, concept) if spells_out else (_as_told(token, told, tokenizer, pipe),)
            _refuse_known(token, names, tokenizer)
            for written, vector in zip(names, concept.vectors[name], strict=True):
                tokenizer.add_tokens(written)
                vectors[tokenizer.convert_tokens_to_ids(written)] = vector.detach()
        setattr(pipe, key, held)
        before[id(tokenizer)] = getattr(plain, key)
        found[name] = AddedTokens(vectors)
    if spells_out:
        every = {token.lower(): " ".join(_names(token, concept)) for token, concept in concepts.items()}
        pipe.maybe_convert_prompt = partial(_spelt_out, plain, before, every)
    return MappingProxyType(found)


def _names(token: str, concept: Concept) -> tuple[str, ...]:
    """Return the names of a concept's tokens, one for each vector."""
    return (token, *(f"{token}_{i}" for i in range(1, len(concept))))


def _as_told(token: str, told: Told, tokenizer: Any, pipe: Any) -> str:
    """Return a token as the pipeline passes it to its tokenizer."""
    written = told(token, tokenizer)
    if written.lower() != token.lower():
        raise ValueError(
            f"{type(pipe).__name__} cleans prompts before they are read, and leaves {written!r} of {token!r}: give the "
            f"concept a token of letters, such as {''.join(filter(str.isalnum, token)) or 'mystyle'!r}"
        )
    return written


def _spelt_out(plain: Any, before: Mapping[int, Any], spellings: Mapping[str, str], prompt: Any, tokenizer: Any) -> Any:
    """Return the result of `maybe_convert_prompt`, with the added concepts written as several tokens too.

    Args:
        plain: the original pipeline.
        before: its tokenizers, which know the tokens that it loaded itself, by the id of the run's own tokenizers.
        spellings: the tokens of each added concept, by its token in lower case.
        prompt: one text or several.
        tokenizer: the run's own tokenizer.
    """
    if isinstance(prompt, list):
        return [_spelt_out(plain, before, spellings, text, tokenizer) for text in prompt]
    names = sorted({*tokenizer.get_added_vocab(), *spellings}, key=len, reverse=True)
    # If several tokens could begin here, a tokenizer takes the longest.
    pattern = re.compile("|".join(map(re.escape, names)), re.IGNORECASE)
    loaded = plain.maybe_convert_prompt(prompt, before.get(id(tokenizer), tokenizer))
    return pattern.sub(lambda match: spellings.get(match.group().lower(), match.group()), loaded)


def _is_encoder(name: str, part: Any) -> bool:
    return name.startswith("text_encoder") and part is not None


def _refuse_unfit(token: str, concept: Concept, encoders: Mapping[str, Any]) -> None:
    if set(concept.vectors) != set(encoders):
        raise ValueError(
            f"the concept {token!r} was learned for {' and '.join(concept.vectors)}; this model reads prompts by "
            f"{' and '.join(encoders)}"
        )
    for name, encoder in encoders.items():
        own, given = encoder.get_input_embeddings().embedding_dim, concept.vectors[name].shape[-1]
        if own != given:
            raise ValueError(
                f"the concept {token!r} has vectors of width {given}, and the token embeddings of this model's {name} "
                f"have width {own}: it was learned for another model"
            )


def _refuse_known(token: str, names: tuple[str, ...], tokenizer: Any) -> None:
    known = tokenizer.get_vocab()
    there = [name for name in (*names, f"{token}_1") if name in known]
    # In the vocabulary, words end with a mark: "circle" is read as "circle</w>".
    read = tokenizer.tokenize(token)
    if there or len(read) == 1:
        raise ValueError(
            f"the tokenizer has a token {(there or read)[0]!r} already, so {token!r} cannot be a concept's: give it "
            f"another, such as '<my-{token.strip('<>')}>'"
        )
