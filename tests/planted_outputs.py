"""Planted networks whose attention reaches the picture, and words and concepts that are like the planted token.

In `tests.planted_families` blocks add nothing. Here what a place reads of the marked token is added to one feature of
the place, and the latents that come out are that feature; so the picture, and every gradient, knows who looked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import sdprobe
from tests.planted import STRENGTH, hand_on
from tests.planted_layers import feature, queries_and_keys, zero
from tests.planted_one_stream import let_through_one_stream

SMALL = 0.05
"""How much is added: the sign of what the places show must stay."""


class Placed(sdprobe.Transform):
    """The latents that a run begins with."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def latents(self, x: Tensor, step: sdprobe.Step) -> Tensor:
        return self.noise.to(x) if step.index == 0 else x


@torch.no_grad()
def let_through(model: sdprobe.Model) -> None:
    """Let what is read of the marked token reach the picture, of a planted model."""
    network = model.denoiser
    if hasattr(network, "context_refiner"):
        return let_through_one_stream(network)
    if model.network == "unet":
        hand_on(network.conv_out)
    else:
        # The last norm takes away how large a single feature is, so what is read is added to another one.
        zero(network.proj_out)
        network.proj_out.weight[:, 2] = 1
    to, mark = (0, 0) if model.network == "unet" else (2, 1)
    for name, module in model.modules.items():
        kind = model.attention_kind(module)
        if kind not in ("cross", "joint") or not isinstance(getattr(module, "to_out", None), torch.nn.ModuleList):
            continue  # the single blocks of Flux stay shut
        values = module.add_v_proj if kind == "joint" else module.to_v
        for layer in (module.to_v, values):
            zero(layer)
        values.weight[:, mark] = 1
        zero(module.to_out[0])
        module.to_out[0].weight[to] = SMALL / module.to_out[0].in_features
        if kind == "joint":
            _open_gate(network, model.modules[name.rpartition(".")[0]])


def _open_gate(network: Any, block: Any) -> None:
    """Let a block add what its attention gives: the third of its six modulations is 1."""
    if hasattr(network, "double_stream_modulation_img"):  # Flux.2: of all blocks together, without a bias
        modulation = network.double_stream_modulation_img.linear
        modulation.bias = torch.nn.Parameter(torch.zeros(modulation.out_features))
    else:
        modulation = block.img_mod[1] if hasattr(block, "img_mod") else block.norm1.linear
    modulation.bias.view(6, -1)[2] = 1


@torch.no_grad()
def plant_concepts(model: sdprobe.Model, like: str, unlike: str) -> None:
    """Let one word, encoded alone, have the value of the marked token, and another the opposite."""
    if hasattr(model.denoiser, "context_refiner"):
        return  # text and image are on one axis, and the method is refused
    joint = any(model.attention_kind(module) == "joint" for module in model.modules.values())
    marked = torch.zeros(model.encoded([like])["encoder_hidden_states"].shape[-1])
    marked[0] = 1
    norm = getattr(model.denoiser, "txt_norm", torch.nn.Identity())  # Qwen-Image's, on the way to the first layer
    rows = torch.stack([norm(marked), vector_of(model, like, norm), vector_of(model, unlike, norm)])
    solved = torch.linalg.pinv(rows) @ torch.tensor([1.0, 1.0, -1.0])
    if joint:
        embedder = getattr(model.denoiser, "context_embedder", None) or model.denoiser.txt_in
        embedder.weight[1] = solved
        for name, module in model.modules.items():
            if name.endswith("to_v") and ".attn." in name:
                feature(module, 0, 0)
                module.weight[0, 0] = 0.25
            elif name.endswith("add_v_proj"):
                feature(module, 0, 1)
                module.weight[0, 1] = 4
        return
    inlet = getattr(model.denoiser, "caption_projection", None)
    if inlet is not None:  # through which PixArt passes the prompt
        inlet.linear_1.weight[1] = 4 * solved
    for module in model.modules.values():
        if model.attention_kind(module) == "cross":
            zero(module.to_v)
            if inlet is not None:
                module.to_v.weight[:, 1] = 4
            else:
                module.to_v.weight[:] = 4 * solved


@torch.no_grad()
def plant_self_attention(model: sdprobe.Model) -> None:
    """Let places that show the same sign see each other, and in joint attention the marked token as before."""
    for module in model.modules.values():
        kind = model.attention_kind(module)
        if kind not in ("self", "joint"):
            continue
        query, key = queries_and_keys(module)
        width = len(query) // module.heads
        if kind == "self":
            zero(module.to_q)
            zero(module.to_k)
        strong = kind == "joint" and module.norm_k is not None  # whose norm then has the strength
        query[2::width, 0] = 1
        key[2::width, 0] = 1 if strong else STRENGTH


def plant_word(model: sdprobe.Model, word: str) -> None:
    """Let the pipeline's encoder mark one word's tokens in any text, and say nothing of all others."""
    ids, encode = model.read(word).ids, model.pipe.encode_prompt
    marked = {ids[i] for i in model.read(word).positions(word)}

    def planted_prompt(texts: list[str], *args: Any, **kwargs: Any) -> list[Any]:
        made = list(encode(texts, *args, **kwargs))
        for k, name in enumerate(texts):
            marks = torch.tensor([float(own in marked) for own in model.read(name).ids])
            made[0][k] = 0
            made[0][k, :, 0] = marks
        return made

    model.pipe.encode_prompt = planted_prompt


def vector_of(model: sdprobe.Model, word: str, through: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The mean of a word's tokens, encoded alone, through a norm; of encoders side by side, of the last of them."""
    prompt = model.read(word)
    parts = [*prompt.parts]
    own: Sequence[int] = prompt.positions(word)
    if parts:
        own = [p for p in own if p in prompt.of(parts[-1])]
    each: Tensor = model.encoded([word])["encoder_hidden_states"][0, list(own)]
    found: Tensor = each if through is None else through(each)
    return found.mean(0)
