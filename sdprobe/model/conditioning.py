"""Prompts on their way to the denoiser: through the text encoders, past the two points there, into rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.compose import Hooks
from sdprobe.model.concepts import Brought
from sdprobe.model.encoding import layers_during, passing, table_of
from sdprobe.prompt import Prompt
from sdprobe.run import Conditioned, Role, Run, Text

EMBEDS = "encoder_hidden_states"
"""What every denoiser here calls the value of the point ``prompt_embeds``."""

Told = Mapping[str, Shaped[Tensor, "entries ..."]]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the denoiser is told besides the latents and the time.

    Args:
        told: tensors by the names of the denoiser's own arguments, with an entry for each row.
        groups: how many groups of rows there are, each with a row for each image.
    """

    told: Told
    groups: int

    @property
    def tokens(self) -> int:
        """How many tokens of text the denoiser is shown."""
        return int(self.told[EMBEDS].shape[1])

    def of(self, rows: slice | list[int]) -> Conditioning:
        """That of these rows only: one role's, one row for each image."""
        return Conditioning({name: tensor[rows] for name, tensor in self.told.items()}, 1)


def conditioned(stage: Any, run: Run, hooks: Hooks, roles: Sequence[Role]) -> Conditioning:
    """What the denoiser is told in a run: the prompts of every role past the hooks, an entry for each row."""
    settings = run.settings
    sides = [told_of(stage, run, hooks, role) for role in roles]
    told = {
        name: torch.cat([side[name].repeat_interleave(settings.images_per_prompt, dim=0) for side in sides])
        for name in sides[0]
    }
    besides = stage.besides(settings)
    return Conditioning(told | {name: torch.cat([x] * len(roles)) for name, x in besides.items()}, len(roles))


def told_of(stage: Any, run: Run, hooks: Hooks, role: Role) -> dict[str, Tensor]:
    """What the pipeline makes of the prompts of one role, past ``token_embeds`` and ``prompt_embeds``."""
    prompts = prompts_of(run, role)
    texts = [prompt.text for prompt in prompts]
    if role == "uncond" and not run.settings.negative_given and stage.zeroes_unprompted:
        found = {name: torch.zeros_like(x) for name, x in stage.encoded(texts).items()}
    else:
        with passing_tokens(stage, run, hooks, role):
            found = dict(stage.encoded(texts))
    return found | {EMBEDS: hooks.prompt_embeds(found[EMBEDS], joint_text(stage, run, hooks, role))}


def prompts_of(run: Run, role: Role) -> tuple[Prompt, ...]:
    """The prompts of a role, one per text."""
    return run.negative_prompts if role == "uncond" else run.prompts


@contextmanager
def passing_tokens(stage: Any, run: Run, hooks: Hooks, role: Role) -> Iterator[None]:
    """While this is open, each encoder's token embeddings pass their point, if any hook acts there."""
    with ExitStack() as open_hooks:
        for encoder in stage.text_encoders if len(hooks.at("token_embeds")) else ():
            text = text_of(stage, run, hooks, role, encoder)
            table = table_of(getattr(stage.pipe, encoder))
            open_hooks.enter_context(passing(table, partial(_at_token_embeds, hooks, text)))
        yield


def _at_token_embeds(hooks: Hooks, text: Text, x: Tensor) -> Tensor:
    return hooks.token_embeds(x, text)


def text_of(stage: Any, run: Run, hooks: Hooks, role: Role, encoder: str) -> Text:
    """Where ``token_embeds`` of one encoder is: its prompts are as its own tokenizer reads them."""
    prompts = tuple(stage.read(prompt.text, encoder) for prompt in prompts_of(run, role))
    part = getattr(stage.pipe, encoder)
    brought = stage.brought.get(encoder, Brought())

    def lookup(word: str) -> Float[Tensor, "tokens width"]:
        tokenizer = stage.tokenizer_of(encoder)
        ids = tokenizer(stage.spelt(word, tokenizer), add_special_tokens=False, return_tensors="pt").input_ids[0]
        found: Tensor = brought.looked_up(table_of(part), ids.to(stage.device))
        return found.detach()

    def layers() -> tuple[Shaped[Tensor, "batch tokens width"], ...]:
        with passing_tokens(stage, run, hooks.transforms, role), layers_during(part) as found:
            stage.encoded([prompt.text for prompt in prompts])
        return tuple(found)

    return Text(encoder, prompts, role, run, lookup, *_whole(stage, run, hooks, role, layers))


def joint_text(stage: Any, run: Run, hooks: Hooks, role: Role) -> Text:
    """Where ``prompt_embeds`` is: its prompts are as the denoiser is shown them, every encoder's tokens in place."""
    makers = [name for names in stage.token_axis for name in names if name in stage.text_encoders]
    if len(makers) == 1:
        own = text_of(stage, run, hooks, role, makers[0])
        return Text(own.encoder, prompts_of(run, role), role, run, own.lookup, own.encode, own.layers, own.again)

    def each_its_own(*asked: Any) -> Any:
        raise ValueError(
            f"prompt_embeds of this model are made by {' and '.join(makers)} together, each with its own table and "
            f"layers: a Text at token_embeds tells of one of them"
        )

    return Text(
        "+".join(makers), prompts_of(run, role), role, run, each_its_own, *_whole(stage, run, hooks, role, each_its_own)
    )


def _whole(
    stage: Any, run: Run, hooks: Hooks, role: Role, layers: Callable[[], tuple[Tensor, ...]]
) -> tuple[Callable[..., Any], Callable[[], tuple[Tensor, ...]], Callable[[], Conditioned]]:
    """What a `Text` can be asked about whole prompts: ``encode``, ``layers`` and ``again``."""

    def encode(texts: Sequence[str]) -> Shaped[Tensor, "texts tokens width"]:
        made: Tensor = stage.encoded(list(texts))[EMBEDS]
        return made

    def again() -> Conditioned:
        told = told_of(stage, run, hooks.transforms, role)
        return Conditioned(told[EMBEDS], told)

    return encode, layers, again
