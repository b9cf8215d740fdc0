"""The stages of a text encoder (CLIP, T5, BERT or a language model), from token ids to its output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from sdprobe.core.prompt import Prompt

Stage = Shaped[Tensor, "batch tokens width"]


class States(NamedTuple):
    """The stages of one pass of a text encoder.

    ``input`` = ``token`` + ``position``; ``hidden_states`` begins with it and ends with the last layer's output;
    ``last_hidden_state`` is that output after the final norm; ``pooled`` is its value at the end token.
    """

    token: Stage
    position: Shaped[Tensor, "tokens width"]
    input: Stage
    hidden_states: tuple[Stage, ...]
    last_hidden_state: Stage
    pooled: Shaped[Tensor, "batch width"]


def states(encoder: Any, prompts: Sequence[Prompt], device: torch.device, given: Stage | None = None) -> States:
    """Return every stage of the encoder's pass over prompts, or over given input embeddings."""
    ids = torch.tensor([prompt.ids for prompt in prompts], device=device)
    kept = torch.tensor([[role != "pad" for role in prompt.roles] for prompt in prompts], device=device).long()
    mask = kept if getattr(encoder.config, "use_attention_mask", False) else None
    if _is_t5(encoder):
        raise ValueError(f"a {type(encoder).__name__} has no position embeddings: its stages are not those of CLIP")
    embeddings: Any = getattr(_inner(encoder), "embeddings", None)
    if not hasattr(embeddings, "token_embedding"):
        raise ValueError(
            f"a {type(encoder).__name__} does not add token and position embeddings alone: its stages are not those of "
            f"CLIP. Its layers are read by ReadLayer"
        )
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        if given is not None:
            hooks.enter_context(passing(embeddings, partial(_replaced, given)))
        stages = {"token": embeddings.token_embedding, "position": embeddings.position_embedding, "input": embeddings}
        for name, module in stages.items():
            hooks.enter_context(passing(module, partial(_kept, seen, name)))
        out = encoder(ids, attention_mask=mask, output_hidden_states=True)
    token, position = seen["token"], seen["position"]
    return States(token, position[0], seen["input"], tuple(out.hidden_states), out.last_hidden_state, _pooled(out))


def table_of(encoder: Any) -> Any:
    """Return the table of token embeddings that an encoder uses."""
    # T5's layers have their own table besides the one T5 reports; both share their weights.
    return _inner(encoder).embed_tokens if _is_t5(encoder) else encoder.get_input_embeddings()


@contextmanager
def layers_during(encoder: Any) -> Iterator[list[Stage]]:
    """Record every layer's hidden states in the encoder's next pass, each after the final norm; 0 is the input.

    The list is filled when this is closed.
    """
    found: list[Stage] = []
    seen: dict[str, Tensor] = {}
    first, layers = _layers(encoder)
    with ExitStack() as hooks:
        for i, module in enumerate((first, *layers)):
            hooks.enter_context(passing(module, partial(_kept, seen, str(i))))
        yield found
    found.extend(final_norm(encoder).forward(x) for x in seen.values())


def final_norm(encoder: Any) -> nn.Module:
    """Return the norm after the encoder's last layer; BERT has none, as its layers end with their own norms."""
    if (decoder := _language_model(encoder)) is not None:
        last: nn.Module = decoder.norm
        return last
    norm: nn.Module = nn.Identity() if _is_bert(encoder) else _inner(encoder).final_layer_norm
    return norm


def _layers(encoder: Any) -> tuple[nn.Module, Iterable[nn.Module]]:
    """Return the module that makes the first layer's input, and the layers."""
    inner = _inner(encoder)
    if _is_t5(encoder):
        return inner.embed_tokens, inner.block
    if _is_bert(encoder):
        return encoder.embeddings, encoder.encoder.layer
    if (decoder := _language_model(encoder)) is not None:
        return decoder.embed_tokens, decoder.layers
    layers = getattr(getattr(inner, "encoder", None), "layers", None)
    if layers is None or not hasattr(inner, "final_layer_norm"):
        raise ValueError(
            f"the layers of a {type(encoder).__name__} are not known: it is built like none of CLIP, T5, BERT and Llama"
        )
    return inner.embeddings, layers


def _is_bert(encoder: Any) -> bool:
    """Whether an encoder is BERT, RoBERTa or a similar model without a projection."""
    own = getattr(encoder, "encoder", None)
    return hasattr(own, "layer") and hasattr(encoder, "embeddings") and not hasattr(encoder, "final_layer_norm")


def _is_t5(encoder: Any) -> bool:
    return hasattr(getattr(encoder, "encoder", None), "block")


def _language_model(encoder: Any) -> Any:
    """Return the part of an encoder that is a language model of Llama's kind; None where there is none."""
    parts = encoder.modules() if isinstance(encoder, nn.Module) else ()
    return next(
        (part for part in parts if all(hasattr(part, name) for name in ("embed_tokens", "layers", "norm"))), None
    )


def _inner(encoder: Any) -> Any:
    if _is_t5(encoder):
        return encoder.encoder
    return getattr(encoder, "text_model", encoder)  # a wrapper in some versions, and with a projection


def _replaced(given: Tensor, x: Tensor) -> Tensor:
    if given.shape != x.shape:
        raise ValueError(f"input must be {list(x.shape)}, as the prompt's own, not {list(given.shape)}")
    return given.to(x)


def _pooled(out: Any) -> Tensor:
    pooled: Tensor = out.pooler_output if "pooler_output" in out else out.text_embeds  # with a projection
    return pooled


def _kept(seen: dict[str, Tensor], name: str, x: Any) -> Any:
    seen[name] = x[0] if isinstance(x, tuple) else x
    return x


@contextmanager
def passing(module: nn.Module, through: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this is open, the output of a module goes through a function."""
    handle = module.register_forward_hook(lambda module, args, output: through(output))
    try:
        yield
    finally:
        handle.remove()
