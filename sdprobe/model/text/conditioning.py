"""`Conditioning`: prompts through the text encoders and the text points to the denoiser's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.compose import Hooks
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Conditioned, Role, Run
from sdprobe.core.text import Text
from sdprobe.model.outside_modules import listen_to_encoders
from sdprobe.model.text.added_tokens import AddedTokens
from sdprobe.model.text.encoder_stages import layers_during, passing, table_of
from sdprobe.model.text.tokenize_prompt import ids_within_text

EMBEDS = "encoder_hidden_states"
"""The denoiser's argument that gets the value of the point ``prompt_embeds``."""

MASKS, PLACES = ("encoder_attention_mask", "encoder_hidden_states_mask", "prompt_attention_mask"), "txt_ids"
"""The denoiser's arguments with an entry for each token: which of them it may look at, and where Flux has them."""

POOLED = ("text_embeds", "pooled_projections")
"""The denoiser's argument that gets the value of the point ``pooled_embeds``, if there is one."""

DenoiserArguments = Mapping[str, Shaped[Tensor, "entries ..."]]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The denoiser's arguments other than the latents and the timestep.

    Args:
        arguments: tensors by the denoiser's argument names, with an entry for each row.
        groups: the number of roles; each has one row per image.
        lengths: the number of tokens of each row, where rows have different numbers; else empty.
        role: the role of all rows, in a call of the denoiser for one role alone.
        beside: further tokens, which stand after the prompt embeddings in one call.
    """

    arguments: DenoiserArguments
    groups: int
    lengths: tuple[int, ...] = ()
    role: Role | None = None
    beside: Shaped[Tensor, "rows tokens width"] | None = None

    @property
    def tokens(self) -> int:
        """The number of text tokens that the denoiser gets."""
        return int(self.arguments[EMBEDS].shape[1])

    def of(self, rows: slice | list[int]) -> Conditioning:
        """Return the conditioning of some rows only: those of one role, one for each image.

        Where rows have different numbers of tokens, it ends with the longest of these; where these have the same
        number, no mask is left.
        """
        told = {name: tensor[rows] for name, tensor in self.arguments.items()}
        beside = None if self.beside is None else self.beside[rows]
        if not self.lengths:
            return Conditioning(told, 1, beside=beside)
        places = range(len(self.lengths))[rows] if isinstance(rows, slice) else rows
        lengths = tuple(self.lengths[k] for k in places)
        padded, longest, alike = self.tokens, max(lengths), len(set(lengths)) == 1
        cut = {
            name: x[:, :longest] if x.ndim > 1 and x.shape[1] == padded and name in (EMBEDS, *MASKS) else x
            for name, x in told.items()
            if not (alike and name in MASKS)
        }
        return Conditioning(cut, 1, lengths, beside=beside)

    def joined(self) -> Conditioning:
        """Return the conditioning with the further tokens among the arguments."""
        if self.beside is None:
            return self
        lengths = tuple(length + self.beside.shape[1] for length in self.lengths)
        return replace(self, arguments=join(self.arguments, self.beside), lengths=lengths, beside=None)


def join(told: Mapping[str, Any], beside: Shaped[Tensor, "rows tokens width"]) -> dict[str, Any]:
    """Return a network's arguments with further tokens after the prompt embeddings.

    Raises ValueError for tokens of another number of rows, or of another width.
    """
    embeds: Tensor = told[EMBEDS]
    if beside.ndim != 3 or (len(beside), beside.shape[-1]) != (len(embeds), embeds.shape[-1]):
        raise ValueError(
            f"tokens beside the prompt are [rows, tokens, width] = [{len(embeds)}, …, {embeds.shape[-1]}], not "
            f"{list(beside.shape)}"
        )
    found = {**told, EMBEDS: torch.cat([embeds, beside.to(embeds)], dim=1)}
    for name in MASKS:
        if (mask := found.get(name)) is not None:
            found[name] = torch.cat([mask, mask.new_ones(len(mask), beside.shape[1])], dim=1)
    if (places := found.get(PLACES)) is not None:  # the further tokens stand where further tokens of the text would
        last = places[..., -1:, :]
        apart = last - places[..., -2:-1, :] if places.shape[-2] > 1 else torch.zeros_like(last)
        further = torch.arange(1, beside.shape[1] + 1, device=places.device, dtype=places.dtype)
        found[PLACES] = torch.cat([places, last + apart * further[:, None]], -2)
    return found


def joined_rows(sides: Sequence[Mapping[str, Tensor]]) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return what was encoded for each role as one batch, padded with zeros, and the number of tokens of each row."""
    name = next((name for name in MASKS if any(name in side for side in sides)), MASKS[0])
    masks = [side.get(name, torch.ones(side[EMBEDS].shape[:2], device=side[EMBEDS].device)) for side in sides]
    lengths = tuple(int(count) for mask in masks for count in mask.sum(1).tolist())
    longest = max(mask.shape[1] for mask in masks)
    dtype = next((side[name].dtype for side in sides if name in side), torch.long)
    every: list[dict[str, Tensor]] = [{**side, name: mask.to(dtype)} for side, mask in zip(sides, masks, strict=True)]
    padded = [{own: to_length(x, longest) if own in (EMBEDS, name) else x for own, x in side.items()} for side in every]
    return _joined(padded), lengths


def _joined(sides: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([side[name] for side in sides]) for name in sides[0]}


def to_length(x: Shaped[Tensor, "rows tokens ..."], tokens: int) -> Shaped[Tensor, "rows tokens ..."]:
    """Return values of tokens for so many of them: zeros follow, or the last are cut."""
    if x.shape[1] >= tokens:
        return x[:, :tokens]
    return torch.cat([x, x.new_zeros(len(x), tokens - x.shape[1], *x.shape[2:])], dim=1)


def conditioned(run_model: Any, run: Run, hooks: Hooks, roles: Sequence[Role]) -> Conditioning:
    """Encode the prompts of every role, with the hooks, and return the conditioning of every row."""
    settings = run.settings
    zeroed = [role for role in roles if _is_zeroed(run_model, run, role)]
    encoded: dict[Role, dict[str, Tensor]] = {}
    sides = []
    for role in roles:
        # Zeros have the shape of what is encoded for another role, so for them nothing is encoded.
        own = next(other for other in roles if other not in zeroed) if role in zeroed else role
        if own not in encoded:
            encoded[own] = _encoded(run_model, run, hooks, own)
        found = encoded[own] if own == role else _zeros_like(encoded[own])
        sides.append(_past_points(run_model, run, hooks, role, found))
    each = [
        {name: x.repeat_interleave(settings.images_per_prompt, dim=0) for name, x in side.items()} for side in sides
    ]
    told, lengths = joined_rows(each) if run_model.ragged else (_joined(each), ())
    besides = run_model.besides(settings)
    every = told | {name: torch.cat([x] * len(roles)) for name, x in besides.items()}
    return Conditioning(every, len(roles), lengths)


def encode_role(run_model: Any, run: Run, hooks: Hooks, role: Role) -> dict[str, Tensor]:
    """Encode the prompts of one role with the pipeline, with the hooks at the text points."""
    found = _encoded(run_model, run, hooks, role)
    return _past_points(run_model, run, hooks, role, found)


def _encoded(run_model: Any, run: Run, hooks: Hooks, role: Role) -> dict[str, Tensor]:
    """Encode the prompts of one role with the pipeline, with the hooks at ``token_embeds``."""
    if _is_zeroed(run_model, run, role):
        return _zeros_like(run_model.encoded_prompts(run, role))
    with passing_tokens(run_model, run, hooks, role):
        return dict(run_model.encoded_prompts(run, role))


def _past_points(
    run_model: Any, run: Run, hooks: Hooks, role: Role, encoded: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return what was encoded for one role, past the points of whole prompts; a `Text` is made only for a hook."""
    found = dict(encoded)
    if len(hooks.at("prompt_embeds")):
        found[EMBEDS] = hooks.prompt_embeds(found[EMBEDS], joint_text(run_model, run, hooks, role))
    for name in (name for name in POOLED if name in found and len(hooks.at("pooled_embeds"))):
        found[name] = hooks.pooled_embeds(found[name], pooled_text(run_model, run, hooks, role, name))
    return found


def _is_zeroed(run_model: Any, run: Run, role: Role) -> bool:
    """Whether the model's unconditional rows get zeros, as no negative prompt was given."""
    return role == "uncond" and not run.settings.negative_given and run_model.zeroes_unprompted


def _zeros_like(encoded: DenoiserArguments) -> dict[str, Tensor]:
    return {name: torch.zeros_like(x) for name, x in encoded.items()}


def prompts_of(run: Run, role: Role) -> tuple[Prompt, ...]:
    """Return the prompts of a role, one per text."""
    return run.negative_prompts if role == "uncond" else run.prompts


@contextmanager
def passing_tokens(run_model: Any, run: Run, hooks: Hooks, role: Role) -> Iterator[None]:
    """While this is open, each encoder's token embeddings go through their point, and what hooks ask of its modules."""
    encoders = {name: getattr(run_model.pipe, name) for name in run_model.text_encoders}
    own_text = partial(text_of, run_model, run, hooks, role)
    with ExitStack() as open_hooks:
        open_hooks.enter_context(listen_to_encoders(encoders, hooks, own_text))
        for encoder in run_model.text_encoders if len(hooks.at("token_embeds")) else ():
            text = text_of(run_model, run, hooks, role, encoder)
            table = table_of(getattr(run_model.pipe, encoder))
            open_hooks.enter_context(passing(table, _AtTokenEmbeds(hooks, text)))
        yield


class _AtTokenEmbeds:
    """An encoder's token embeddings through their point, once: further passes of the same prompts get the same."""

    def __init__(self, hooks: Hooks, text: Text) -> None:
        self.hooks, self.text = hooks, text
        self.made: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.made is None:
            self.made = self.hooks.token_embeds(_of_whole_prompts(x, self.text.prompts), self.text).reshape(x.shape)
        return self.made


def _of_whole_prompts(x: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Return an encoder's values with one entry per prompt, where the chunks of a prompt are entries of their own."""
    return x if len(x) == len(prompts) else x.reshape(len(prompts), -1, x.shape[-1])


def text_of(run_model: Any, run: Run, hooks: Hooks, role: Role, encoder: str) -> Text:
    """Return the `Text` of ``token_embeds`` of one encoder, with prompts as its own tokenizer reads them."""
    reader = run_model.of_role(role)
    prompts = tuple(reader.read(prompt.text_for(encoder), encoder) for prompt in prompts_of(run, role))
    part = getattr(run_model.pipe, encoder)
    brought = run_model.added_tokens.get(encoder, AddedTokens())

    def lookup(word: str) -> Float[Tensor, "tokens width"]:
        tokenizer = run_model.tokenizer_of(encoder)
        ids = torch.tensor(ids_within_text(tokenizer, run_model.spelt(word, tokenizer)))
        found: Tensor = brought.looked_up(table_of(part), ids.to(run_model.device))
        return found.detach()

    def layers() -> tuple[Shaped[Tensor, "batch tokens width"], ...]:
        with passing_tokens(run_model, run, hooks.transforms, role), layers_during(part) as found:
            reader.encoded([prompt.text for prompt in prompts_of(run, role)])
        lengths = [prompt.unpadded for prompt in prompts]
        return tuple(reader.shown(_of_whole_prompts(x, prompts), lengths) for x in found)

    return Text(encoder, prompts, role, run, lookup, *_whole(run_model, run, hooks, role, layers, EMBEDS))


def joint_text(run_model: Any, run: Run, hooks: Hooks, role: Role) -> Text:
    """Return the `Text` of ``prompt_embeds``, with prompts of all encoders' tokens at the denoiser's positions."""
    makers = [name for names in run_model.token_axis for name in names if name in run_model.text_encoders]
    if len(makers) == 1:
        own = text_of(run_model, run, hooks, role, makers[0])
        return replace(own, prompts=prompts_of(run, role))

    def each_its_own(*asked: Any) -> Any:
        raise ValueError(
            f"prompt_embeds of this model are made by {' and '.join(makers)} together, each with its own table and "
            f"layers: a Text at token_embeds tells of one of them"
        )

    whole = _whole(run_model, run, hooks, role, each_its_own, EMBEDS)
    return Text("+".join(makers), prompts_of(run, role), role, run, each_its_own, *whole)


def pooled_text(run_model: Any, run: Run, hooks: Hooks, role: Role, name: str) -> Text:
    """Return the `Text` of ``pooled_embeds``: one vector per prompt, without tokens."""
    makers = [maker for maker in run_model.pooling if maker in run_model.text_encoders]

    def of_tokens(*asked: Any) -> Any:
        raise ValueError(
            "pooled_embeds are one vector of the whole prompt: a Text at token_embeds tells of tokens and of layers"
        )

    whole = _whole(run_model, run, hooks, role, of_tokens, name)
    return Text("+".join(makers), prompts_of(run, role), role, run, of_tokens, *whole)


def _whole(
    run_model: Any, run: Run, hooks: Hooks, role: Role, layers: Callable[[], tuple[Tensor, ...]], value: str
) -> tuple[Callable[..., Any], Callable[..., Conditioned], Callable[[], tuple[Tensor, ...]], Callable[[], Conditioned]]:
    """Return a `Text`'s functions on whole prompts: ``encode`` (to a value), ``encode_all``, ``layers``, ``again``."""

    def encode(texts: Sequence[str]) -> Shaped[Tensor, "texts ..."]:
        made: Tensor = run_model.of_role(role).encoded(list(texts))[value]
        return made

    def encode_all(texts: Sequence[str]) -> Conditioned:
        told = run_model.of_role(role).encoded(list(texts))
        return Conditioned(told[EMBEDS], told)

    def again() -> Conditioned:
        told = encode_role(run_model, run, hooks.transforms, role)
        return Conditioned(told[EMBEDS], told)

    return encode, encode_all, layers, again
