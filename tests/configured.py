"""How each built-in hook is built for a small model of any family, and what it is tried with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

import sdprobe
from sdprobe.core import registry
from sdprobe.core.compose import Hook
from sdprobe.core.hook import matches
from sdprobe.model.text.encoder_stages import table_of
from sdprobe.sae.activation_function import TopK


def side_of(model: sdprobe.Model) -> int:
    """The side of the pictures of a model, in pixels: 16, or twice the least that its pipeline takes."""
    return 16 if 16 % model.multiple == 0 else 2 * model.multiple


@dataclass(frozen=True)
class Tried:
    """How a hook is built for a model, and what it is tried with.

    Args:
        config: its configuration.
        prompt: a prompt it can work with; several for a hook that is about the prompts of one run.
        unrepeatable: names of its records that may differ between equal runs.
    """

    config: Callable[[sdprobe.Model], Mapping[str, Any]] = lambda model: {}
    prompt: str | list[str] = "a red circle"
    unrepeatable: tuple[str, ...] = ()


def vectors(model: sdprobe.Model, encoder: str | None = None, count: int = 1) -> torch.Tensor:
    width = table_of(getattr(model.pipe, encoder or model.text_encoders[0])).weight.shape[1]
    return torch.randn(count, width, generator=torch.Generator().manual_seed(3))


def concept(model: sdprobe.Model) -> sdprobe.Concept:
    """As a textual inversion is published: for the CLIP encoders, or the first there is."""
    encoders = [name for name in model.text_encoders if name in ("text_encoder", "text_encoder_2")]
    count = 2 if hasattr(model.pipe, "maybe_convert_prompt") else 1
    return sdprobe.Concept({name: vectors(model, name, count) for name in encoders}, "<new>")


def right_half(model: sdprobe.Model) -> torch.Tensor:
    side = side_of(model)
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[:, side // 2 :] = True
    return mask


def grey(model: sdprobe.Model) -> torch.Tensor:
    return torch.full((1, 3, side_of(model), side_of(model)), 0.5)


def darkness(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.flatten(1).mean(1)  # of videos over all frames


def null_text(model: sdprobe.Model) -> torch.Tensor:
    """Embeddings of two steps, as wide as those of the model's prompts."""
    (embeds,) = (x for name, x in model.encoded(["a star"]).items() if name == "encoder_hidden_states")
    return torch.randn(2, *embeds.shape[1:], generator=torch.Generator().manual_seed(4))


IN_EVERY_FAMILY = "*transformer_blocks.0.ff"
"""The feed-forward layers of the image's tokens, in most families."""


def feed_forward(model: sdprobe.Model) -> str:
    """The first feed-forward layers of the image's tokens."""
    named = (IN_EVERY_FAMILY, "transformer_blocks.0.img_mlp", "noise_refiner.0.feed_forward", "*blocks.0.ffn")
    return next(own for own in named if any(matches(name, own) for name in model.modules))


def of_one_shape(model: sdprobe.Model) -> tuple[str, ...]:
    """Modules whose values are of one shape for pictures of every size: keys of the text, of as many tokens in all."""
    if model.ragged:  # there it is the embedding of the timestep that tells nothing of the text's length
        return tuple(name for name in model.modules if name.endswith(("timestep_embedder", "t_embedder")))
    joint = tuple(name for name in model.modules if name.endswith(("add_k_proj", "context_refiner.0.attn.to_k")))
    cross = tuple(name for name in model.modules if name.endswith("attn2.to_k"))
    return joint or cross or tuple(name for name in model.modules if name.endswith(("text_proj", "txt_in")))


@lru_cache(maxsize=4)
def recorded(model: sdprobe.Model, modules: str | tuple[str, ...]) -> sdprobe.ActivationRecord:
    """The activations of another prompt, of one image in each role, in more steps than a run makes.

    A hook is built many times for one model, and the record is the same each time.
    """
    keep = sdprobe.Activations(modules)
    settings = {"steps": 8, "guidance_scale": 3.0, "seed": 5, "height": side_of(model), "width": side_of(model)}
    settings |= {} if model.default_frames is None else {"frames": 5}
    return sdprobe.sample(model, "a blue star", hooks=[keep], **settings, progress=False)[keep].record


def directions(model: sdprobe.Model) -> Mapping[str, torch.Tensor]:
    """A vector for each module."""
    record = recorded(model, feed_forward(model))
    values = {key.name: record.at(record.indices_of(key)[0], key) for key in record.keys}
    # Sana's are convolutions, with the width on the second axis.
    return {name: (x.movedim(1, -1) if x.ndim == 4 else x).flatten(0, -2)[0] for name, x in values.items()}


def added(model: sdprobe.Model) -> str:
    """A token that the tokenizer adds after the words, or, where it adds none, before them."""
    return "<end>" if "end" in model.read("a").roles else "<start>"


def autoencoder(model: sdprobe.Model) -> sdprobe.SparseAutoencoder:
    """Of the width of the first module, with random directions."""
    width = next(iter(directions(model).values())).shape[0]
    weights = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(7))
    return sdprobe.SparseAutoencoder(
        weights.T.contiguous(), torch.zeros(2 * width), weights, torch.zeros(width), TopK(3)
    )


def narrow(model: sdprobe.Model) -> list[str]:
    """The modules of the width of the first."""
    widths = {name: len(vector) for name, vector in directions(model).items()}
    return [name for name, width in widths.items() if width == next(iter(widths.values()))]


CONFIGURED: Mapping[str, Tried] = {
    "activations": Tried(lambda model: {"modules": feed_forward(model)}),
    "patch": Tried(lambda model: {"source": recorded(model, of_one_shape(model)), "modules": of_one_shape(model)}),
    "ablate": Tried(lambda model: {"modules": feed_forward(model)}),
    "steer": Tried(lambda model: {"vector": directions(model), "modules": feed_forward(model)}),
    "features": Tried(lambda model: {"sae": autoencoder(model), "modules": narrow(model), "clamp": {0: 3.0}}),
    "replace-token": Tried(lambda model: {"word": "circle", "with_": "square"}),
    "mix-tokens": Tried(lambda model: {"weights": {"red": 0.5, "star": 0.5}, "at": "red"}),
    "add-vector": Tried(
        lambda model: {"word": "red", "vector": {name: vectors(model, name)[0] for name in model.text_encoders}}
    ),
    "scale-token": Tried(lambda model: {"word": "red", "factor": 0.5}),
    "randomize-token": Tried(lambda model: {"word": "circle", "seed": 1}),
    "mix-prompts": Tried(lambda model: {"weights": {"a blue star": 0.5, "a red ring": 0.5}}),
    "scale-prompt": Tried(lambda model: {"factor": 0.9}),
    "noise-prompt": Tried(lambda model: {"amount": 0.2}),
    "read-layer": Tried(lambda model: {"layer": 1}),
    "use-concept": Tried(lambda model: {"concept": concept(model)}, prompt="a <new> circle"),
    "loss-guidance": Tried(
        lambda model: {"loss": darkness, "scale": 5.0, "through": "model"}, unrepeatable=("peak_bytes",)
    ),
    "guidance": Tried(lambda model: {"scale": (3.0, 2.0)}),
    "inpaint": Tried(lambda model: {"picture": grey(model), "mask": right_half(model)}),
    "attend-and-excite": Tried(lambda model: {"words": ("red", "circle"), "repeats": 2}),
    "hide-tokens": Tried(lambda model: {"words": ["red", added(model)]}),
    "sharpen-attention": Tried(lambda model: {"words": "circle", "power": 2.0}),
    "attention-temperature": Tried(lambda model: {"temperature": 1.5}),
    "concentrate": Tried(lambda model: {"word": "circle", "box": (0.0, 0.0, 0.5, 1.0)}),
    "scale-heads": Tried(lambda model: {"factors": {"*att*": {"1": 0.5}}}),
    "reweight-attention": Tried(lambda model: {"weights": {"red": 3.0, added(model): -0.5}}),
    "local-blend": Tried(
        lambda model: {"words": ("circle", "star"), "threshold": 0.9999, "targets": [1]},
        prompt=["a red circle", "a red star"],
    ),
    "replace-attention": Tried(prompt=["a red circle", "a blue circle"]),
    "refine-attention": Tried(prompt=["a circle", "a red circle"]),
    "inject-self-attention": Tried(prompt=["a red circle", "a blue circle"]),
    "regional-prompts": Tried(
        lambda model: {"regions": {"a blue star": (0.0, 0.0, 0.5, 1.0), "a ring": right_half(model)}}
    ),
    "share-attention": Tried(lambda model: {"words": "circle"}, prompt=["a red circle", "a star"]),
    "null-text": Tried(lambda model: {"embeddings": null_text(model)}),
    "steer-to-picture": Tried(lambda model: {"picture": grey(model), "eta": 0.5}),
    "layout-guidance": Tried(lambda model: {"boxes": {"circle": (0.0, 0.0, 0.5, 1.0)}, "repeats": 2}),
}
"""Every hook that needs something, or two prompts without it, by its registered name; others are tried as they are."""


def ours() -> list[str]:
    """The names of the hooks that come with the package."""
    return [name for name, entry in registry.names().items() if entry.value.startswith("sdprobe.")]


def tried(name: str) -> Tried:
    """How a hook is tried. Raises KeyError for one that needs arguments and is not configured here."""
    parameters = inspect.signature(registry.names()[name].load()).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed and name not in CONFIGURED:
        raise KeyError(f"{name!r} needs {', '.join(needed)}: say how to build it in CONFIGURED, in {__file__}")
    return CONFIGURED.get(name, Tried())


def made(name: str, model: sdprobe.Model) -> Hook:
    """A hook, built anew for a model."""
    hook: Hook = sdprobe.create(name, **tried(name).config(model))
    return hook
