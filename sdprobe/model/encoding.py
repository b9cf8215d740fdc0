"""What a CLIP text encoder does between token numbers and conditioning, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from sdprobe.prompt import Prompt

Stage = Shaped[Tensor, "batch tokens width"]


class States(NamedTuple):
    """The stages of one pass.

    ``input`` = ``token`` + ``position``; ``hidden_states`` begins with it and ends with the last layer's output;
    ``last_hidden_state`` is that after the final norm; ``pooled`` is it at the end token.
    """

    token: Stage
    position: Shaped[Tensor, "tokens width"]
    input: Stage
    hidden_states: tuple[Stage, ...]
    last_hidden_state: Stage
    pooled: Shaped[Tensor, "batch width"]


def states(encoder: Any, prompts: Sequence[Prompt], device: torch.device, given: Stage | None = None) -> States:
    """Every stage of the encoder's pass over prompts; or over given input embeddings in place of theirs."""
    ids = torch.tensor([prompt.ids for prompt in prompts], device=device)
    kept = torch.tensor([[role != "pad" for role in prompt.roles] for prompt in prompts], device=device).long()
    mask = kept if getattr(encoder.config, "use_attention_mask", False) else None
    embeddings = _inner(encoder).embeddings
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        if given is not None:
            hooks.enter_context(passing(embeddings, partial(_replaced, given)))
        stages = {"token": embeddings.token_embedding, "position": embeddings.position_embedding, "input": embeddings}
        for name, module in stages.items():
            hooks.enter_context(passing(module, partial(_kept, seen, name)))
        out = encoder(ids, attention_mask=mask, output_hidden_states=True)
    token, position = seen["token"], seen["position"]
    return States(token, position[0], seen["input"], tuple(out.hidden_states), out.last_hidden_state, out.pooler_output)


def final_norm(encoder: Any) -> nn.Module:
    """The norm behind the encoder's last layer."""
    norm: nn.Module = _inner(encoder).final_layer_norm
    return norm


def _inner(encoder: Any) -> Any:
    return getattr(encoder, "text_model", encoder)  # a wrapper in some versions, and where a projection follows


def _replaced(given: Tensor, x: Tensor) -> Tensor:
    if given.shape != x.shape:
        raise ValueError(f"input must be {list(x.shape)}, as the prompt's own, not {list(given.shape)}")
    return given.to(x)


def _kept(seen: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    seen[name] = x
    return x


@contextmanager
def passing(module: nn.Module, through: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this is open, what a module returns goes through a function."""
    handle = module.register_forward_hook(lambda module, args, output: through(output))
    try:
        yield
    finally:
        handle.remove()
