"""A pipeline's ``encode_prompt`` past the hooks: each side, prompts and negative prompts, by itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.compose import Hooks
from sdprobe.core.limits.limited_text_edit import TEXT
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Role, Run
from sdprobe.model.base import Model
from sdprobe.model.outside_modules import hooks_in_encoders
from sdprobe.model.text.conditioning import EMBEDS, encode_role, prompts_of
from sdprobe.stock_pipelines.prompts_read import Side, read_prompts, texts_of

Call = Callable[..., Any]

BOTH = (
    *("lora_scale", "max_sequence_length", "clean_caption", "system_prompt", "prompt_template"),
    "text_encoder_out_layers",
)
COUNTS = ("num_images_per_prompt", "num_videos_per_prompt")
GIVEN = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")


def encode_by_role(
    run_model: Model, run: Run, hooks: Hooks, roles: Sequence[Role], stock: Call, args: Any, kwargs: Any
) -> Any:
    """What a pipeline's own ``encode_prompt`` returns for this call of it, past the points of the text.

    Args:
        run_model: the run's model.
        run: the run.
        hooks: its hooks.
        roles: which sides there are, in the order in which they are to pass.
        stock: the pipeline's method.
        args: what it was called with.
        kwargs: the same.
    """
    # Bound to the run's own copy of the pipeline, whose tokenizers know the words that hooks have brought.
    stock = MethodType(stock.__func__, run_model.pipe) if hasattr(stock, "__func__") else stock
    bound = inspect.signature(stock).bind(*args, **kwargs)
    bound.apply_defaults()
    given = dict(zip(bound.arguments, copied_lists(bound.arguments.values()), strict=True))
    returned = stock(*args, **kwargs)
    acting = {point: hooks.at(point) for point in TEXT}
    acting["activation"] = hooks_in_encoders(run_model, hooks)
    if not any(map(len, acting.values())):
        return returned
    sides = {role: _side(run_model, run, hooks, role, stock, given) for role in roles}
    if not any(len(hooks.transforms) for hooks in acting.values()):
        return returned
    count = next((given[name] for name in COUNTS if name in given), 1)
    each = {role: [_repeated(x, count) for x in side] for role, side in sides.items()}
    if isinstance(returned, Tensor):  # all rows as one: with three-way guidance, cond, image and uncond
        return torch.cat([each["cond"][0], each["uncond"][0], each["uncond"][0]]) if len(each) > 1 else each["cond"][0]
    places = run_model.encoded_at
    found = list(returned)
    for role in roles:
        for place, x in zip(places[role], each[role], strict=False):
            found[place] = x
    return tuple(found)


def copied_lists(values: Iterable[Any]) -> list[Any]:
    """Values with lists copied: Z-Image's pipeline writes its template into the very list of prompts it is given."""
    return [list(value) if isinstance(value, list) else value for value in values]


def _repeated(x: Any, count: int) -> Any:
    if isinstance(x, Tensor):
        return x.repeat_interleave(count, dim=0)
    return [row for row in x for _ in range(count)]


def prefix_of(role: Role, given: Mapping[str, Any]) -> str:
    """How the arguments of ``encode_prompt`` that are of a role begin; Flux has one call for each role."""
    return "negative_" if role == "uncond" and "negative_prompt" in given else ""


def embeddings_of(run_model: Model, returned: Any, roles: Sequence[Role]) -> dict[Role, Tensor]:
    """Of what a call of ``encode_prompt`` returned, the embeddings of the tokens of each role."""
    if isinstance(returned, Tensor):  # with three-way guidance, cond, image and uncond
        return dict(zip(roles, returned.chunk(3 if len(roles) > 1 else 1), strict=False))
    return {role: returned[run_model.encoded_at[role][0]] for role in roles}


def read_encoded(
    model: Model, stock: Call, args: Any, kwargs: Any, returned: Any
) -> Iterator[tuple[tuple[Prompt, ...], Any]]:
    """The prompts that a call of ``encode_prompt`` was given as texts, with the embeddings that it returned of them."""
    bound = inspect.signature(stock).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    reader = copy.copy(model)
    reader.asked = model.asked_of(given)
    roles: tuple[Role, ...] = ("cond", "uncond") if given.get("do_classifier_free_guidance") else ("cond",)
    count = len(texts_of(given, "prompt"))
    for role, embeds in embeddings_of(model, returned, roles).items():
        side: Side = "negative_prompt" if role == "uncond" else "prompt"
        if given.get(f"{side}_embeds") is None:
            yield read_prompts(reader, given, side, count), embeds


def _side(
    run_model: Model, run: Run, hooks: Hooks, role: Role, stock: Call, given: Mapping[str, Any]
) -> tuple[Any, ...]:
    """What is made of the prompts of one role: the embeddings of their tokens, past the hooks, and the pooled."""
    texts = [prompt.text for prompt in prompts_of(run, role)]
    prefix = prefix_of(role, given)
    embeds = given.get(f"{prefix}prompt_embeds")

    def encode_prompt(asked: list[str] | None, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        bound = inspect.signature(stock).bind(asked, *args, **kwargs)
        new = bound.arguments
        # A negative prompt is read to the last layer, whatever clip_skip says of the prompt.
        new |= {name: given[name] for name in (*BOTH, *(("clip_skip",) * (not prefix))) if name in given}
        if asked == texts:
            for name in ("prompt", "prompt_2", "prompt_3"):
                if (own := given.get(prefix + name)) is not None:
                    new[name] = [own] * len(texts) if isinstance(own, str) else list(own)
            if embeds is not None:
                new |= {name: given[prefix + name] for name in GIVEN if prefix + name in given}
                new["prompt"] = None
        elif asked is None and new.get("negative_prompt") == texts and embeds is not None:
            new |= {prefix + name: given[prefix + name] for name in GIVEN if prefix + name in given}
            new["negative_prompt"] = None
        found = stock(*bound.args, **bound.kwargs)
        return found if isinstance(found, tuple) else (found, None)

    alone = copy.copy(run_model)
    alone.pipe = copy.copy(run_model.pipe)
    alone.pipe.encode_prompt = encode_prompt
    told = encode_role(alone, run, hooks, role)
    pooled = [x for name, x in told.items() if name != EMBEDS and x.is_floating_point() and x.ndim == 2]
    return (run_model.embeds_returned(told), *pooled)
