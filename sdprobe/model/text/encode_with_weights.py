"""`reading_weights`: a model that reads the prompts of a run with weights of words.

The embeddings of the tokens with a weight are moved away from, or towards, those of the empty prompt. What weighs less
than 1 is also taken out: the embeddings are mixed with those of the same prompt in which its tokens are masked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Run, Settings
from sdprobe.core.weighted_text import WeightedText, read_weights
from sdprobe.model.base import Model
from sdprobe.model.outside_modules import hooks_in_encoders
from sdprobe.model.text.conditioning import EMBEDS, Conditioning, DenoiserArguments, prompts_of

SMALLEST = 1e-5
"""A weight of 0 takes the place of this one, whose tangent is finite."""


def reading_weights(run_model: Model, settings: Settings) -> Model:
    """Return a run's model as it reads the run's prompts: with weights, if it is asked to."""
    if not settings.weights:
        return run_model
    weighing = object.__new__(_weighing(type(run_model)))
    vars(weighing).update(vars(run_model), empty=None)
    return weighing


class Weights(NamedTuple):
    """The weights of a prompt's tokens.

    Attributes:
        of_tokens: the weight of each.
        less: for each piece that weighs less than 1, its weight and the positions of its tokens.
    """

    of_tokens: list[float]
    less: list[tuple[float, list[int]]]

    @classmethod
    def of(cls, prompt: Prompt, written: WeightedText) -> Weights:
        """Return the weights of a prompt's tokens. Raises ValueError for a token in pieces of different weights."""
        of_tokens, less = [1.0] * len(prompt.ids), []
        for (first, past), piece in zip(written.spans, written.pieces, strict=True):
            positions = [i for i, (a, b) in enumerate(prompt.spans) if a < b and a < past and b > first]
            for i in positions:
                a, b = prompt.spans[i]
                if (prompt.text[a:first] + prompt.text[past:b]).strip():
                    raise ValueError(
                        f"{piece.text!r} with its weight {piece.weight:g} begins or ends within the token "
                        f"{prompt.text[a:b]!r}: give a weight to whole words"
                    )
                of_tokens[i] = piece.weight
            if piece.weight < 1 and positions:
                less.append((piece.weight, positions))
        return cls(of_tokens, less)


class WithWeights(Model):
    """What a family does otherwise where it reads weights; `reading_weights` puts it before the family's class.

    Attributes:
        empty: the embeddings of the empty prompt, once they are needed.
    """

    empty: Float[Tensor, "1 tokens width"] | None

    def plain(self, written: str) -> str:
        return read_weights(written).text

    def encode(self, run: Run, hooks: Hooks, roles: Sequence[Role]) -> Conditioning:
        inside = [str(own) for own in hooks_in_encoders(self, hooks)]
        if inside and any(own.less for role in roles for own in self._weights(run, role)):
            raise ValueError(
                f"{', '.join(inside)} asks for modules of a text encoder, which reads a prompt several times where a "
                f"word weighs less than 1: leave such weights out"
            )
        if self.empty is None:  # before the hooks of the prompts are there
            with torch.no_grad():
                self.empty = self.encoded([""])[EMBEDS]
        return super().encode(run, hooks, roles)

    def encoded_prompts(self, run: Run, role: Role) -> DenoiserArguments:
        found, weights = super().encoded_prompts(run, role), self._weights(run, role)
        if all(weight == 1 for own in weights for weight in own.of_tokens):
            return found
        assert self.empty is not None  # since `encode`
        prompts = prompts_of(run, role)
        of_tokens = torch.tensor([own.of_tokens for own in weights], device=found[EMBEDS].device)
        # How much of each further reading is mixed in, beside 1 of the first.
        shares = [[1.0, *(_share(weight) for weight, _ in own.less)] for own in weights]
        rounds = max(map(len, shares))
        readings = [_weighed(found[EMBEDS], self.empty, of_tokens)]
        for k in range(rounds - 1):
            hidden = [own.less[k][1] if k < len(own.less) else [] for own in weights]
            with self._masking(prompts, _kept(prompts, hidden)):
                without = super().encoded_prompts(run, role)[EMBEDS]
            readings.append(_weighed(without, self.empty, of_tokens))
        mixed = _mixed(readings, [own + [0.0] * (rounds - len(own)) for own in shares])
        return {**found, EMBEDS: mixed.to(found[EMBEDS].dtype)}

    def _weights(self, run: Run, role: Role) -> list[Weights]:
        written = run.settings.negative_prompt if role == "uncond" else run.settings.prompt
        return [Weights.of(*both) for both in zip(prompts_of(run, role), map(read_weights, written), strict=True)]

    @contextmanager
    def _masking(self, prompts: Sequence[Prompt], keep: Bool[Tensor, "prompts tokens"]) -> Iterator[None]:
        """While this is open, the encoders whose tokens the denoiser gets do not look at some of them."""
        with ExitStack() as masks:
            for name, positions in prompts[0].parts.items():
                own = keep[:, positions.start : positions.stop].reshape(-1, self.length(name))
                encoder: nn.Module = getattr(self.pipe, name)
                handle = encoder.register_forward_pre_hook(partial(_masked, own), with_kwargs=True)
                masks.callback(handle.remove)
            yield


def _masked(
    keep: Bool[Tensor, "entries tokens"], encoder: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    own = kwargs.get("attention_mask")
    given = keep.long().to(args[0].device if args else kwargs["input_ids"].device)
    return args, {**kwargs, "attention_mask": given if own is None else own * given.to(own.dtype)}


def _kept(prompts: Sequence[Prompt], hidden: Sequence[Sequence[int]]) -> Bool[Tensor, "prompts tokens"]:
    keep = torch.ones(len(prompts), len(prompts[0].ids), dtype=torch.bool)
    for own, positions in zip(keep, hidden, strict=True):
        own[list(positions)] = False
    return keep


def _weighed(
    x: Shaped[Tensor, "prompts tokens width"],
    empty: Shaped[Tensor, "1 tokens width"],
    weights: Float[Tensor, "prompts tokens"],
) -> Shaped[Tensor, "prompts tokens width"]:
    """Return empty + weight (x - empty); exactly x where the weight is 1."""
    weights = weights[..., None]
    return torch.where(weights == 1, x, empty + (x - empty) * weights)


def _mixed(
    readings: Sequence[Shaped[Tensor, "prompts tokens width"]], shares: Sequence[Sequence[float]]
) -> Shaped[Tensor, "prompts tokens width"]:
    """Return the mean of several readings of each prompt, with its own shares."""
    if len(readings) == 1:
        return readings[0]
    every = torch.stack(list(readings), dim=1)
    weights = torch.tensor(shares, dtype=every.dtype, device=every.device)
    return (every * (weights / weights.sum(1, keepdim=True))[..., None, None]).sum(1)


def _share(weight: float) -> float:
    return math.tan((1 - max(SMALLEST, weight)) * math.pi / 2)


@cache
def _weighing(family: type[Model]) -> type[WithWeights]:
    return type(f"{family.__name__}WithWeights", (WithWeights, family), {})
