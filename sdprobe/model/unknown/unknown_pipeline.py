"""`UnknownPipeline`: a live pipeline of diffusers that no family knows, and the names of what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from sdprobe.core.provenance import Provenance, versions
from sdprobe.core.rows import UNLABELLED, Role
from sdprobe.core.torch_names import name_of as dtype_name
from sdprobe.model.denoiser.compiled_parts import names_as_written
from sdprobe.model.model_lock import lock
from sdprobe.model.unknown.attention_kinds import attention_kinds
from sdprobe.model.weights_hash import source_of, weights_hash, weights_state

IN_LOOP = re.compile(r"(^|_)(transformer|unet|prior|decoder|denoiser|dit)(_\d+)?$|^model$|^super_res_(first|last)$")
"""How the parts of a pipeline are named that are called in its loop."""

BESIDE = re.compile(
    r"encoder|^text_|tokenizer|^vq|vae|movq|vocoder|safety_checker|feature_extractor|adapter|controlnet"
)
"""How those are named that are not, where no part has a name of the first kind."""

FIRST = ("transformer", "unet")


class UnknownPipeline:
    """A live pipeline that no family knows, which is used and not changed.

    Its networks are those parts that are named as diffusers names what is called in the loop: ``transformer``,
    ``unet``, ``prior``, ``decoder``, ``transformer_2``. Modules of the first have their plain dotted names; those of
    others have the name of their part before them: ``transformer_2.blocks.0.attn1``, ``text_encoder.…``, ``vae.…``.

    Args:
        pipe: the diffusers pipeline.

    Attributes:
        networks: the networks by the name of their part, the first first.
        beside: the other parts that have modules, such as text encoders and autoencoder, without a safety checker.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        parts = {
            name: getattr(part, "_orig_mod", part)
            for name, part in pipe.components.items()
            if isinstance(part, nn.Module) and "safety_checker" not in name
        }
        found = [name for name in parts if IN_LOOP.search(name) and not name.startswith("text_decoder")]
        found = found or [name for name in parts if not BESIDE.search(name)]
        found.sort(key=lambda name: name not in FIRST)
        self.networks: Mapping[str, nn.Module] = {name: parts[name] for name in found}
        self.beside: Mapping[str, nn.Module] = {name: part for name, part in parts.items() if name not in found}

    @property
    def kind(self) -> str:
        """The name of the pipeline's class."""
        return type(self.pipe).__name__

    @property
    def denoiser(self) -> nn.Module:
        """The first network. Raises ValueError where none was found."""
        if not self.networks:
            raise ValueError(f"no part of this {self.kind} was found that is called in its loop")
        return next(iter(self.networks.values()))

    @cached_property
    def prefixes(self) -> Mapping[str, str]:
        """For each network what its modules' names have before them."""
        first = next(iter(self.networks), None)
        others = {name for name in (*self.networks, *self.beside) if name != first}
        # A first network with a child that is named as another part has its own name before its modules too.
        plain = first is not None and others.isdisjoint(name for name, _ in self.networks[first].named_children())
        return {part: "" if plain and part == first else f"{part}." for part in self.networks}

    @cached_property
    def modules_of(self) -> Mapping[str, Mapping[str, nn.Module]]:
        """For each network the modules within it, by the names that hooks ask for."""
        return {part: _named(network, self.prefixes[part]) for part, network in self.networks.items()}

    @cached_property
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules of all networks, by the names that hooks ask for."""
        return {name: module for own in self.modules_of.values() for name, module in own.items()}

    @cached_property
    def modules_outside(self) -> Mapping[str, nn.Module]:
        """The modules of the other parts, by names that begin with their part's."""
        return {name: module for part, own in self.beside.items() for name, module in _named(own, f"{part}.").items()}

    @cached_property
    def kinds_of(self) -> Mapping[str, Mapping[str, str]]:
        """For each network the kinds of its attention modules, as far as they are known before it runs."""
        return {part: attention_kinds(own) for part, own in self.modules_of.items()}

    def attention_kind(self, module: nn.Module) -> str | None:
        """The kind of an attention module, as far as it is known before it runs; None for any other module."""
        every = (
            (own[name], kind) for part, own in self.modules_of.items() for name, kind in self.kinds_of[part].items()
        )
        return next((kind for other, kind in every if other is module), None)

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The names of the pipeline's text encoders."""
        return tuple(name for name in self.beside if name.startswith("text_encoder"))

    @property
    def schedulers(self) -> dict[str, Any]:
        """The parts that make steps, by name."""
        parts = self.pipe.components.items()
        return {
            name: own for name, own in parts if not isinstance(own, nn.Module) and callable(getattr(own, "step", None))
        }

    @property
    def scheduler(self) -> Any:
        """The part named ``scheduler``, if it makes steps."""
        return self.schedulers.get("scheduler")

    @property
    def device(self) -> torch.device:
        """The device the pipeline computes on."""
        device: torch.device = self.pipe._execution_device
        return device

    def roles(self, guidance_scale: Any) -> tuple[Role, ...]:
        """The roles of the denoiser's rows: they are not known."""
        return (UNLABELLED,)

    @property
    def provenance(self) -> Provenance:
        """The pipeline's name, where it was loaded from, a hash of its weights, and the versions of the packages."""
        weight = next(iter(self.denoiser.parameters()), None) if self.networks else None
        dtype = None if weight is None else dtype_name(weight.dtype)
        return Provenance(
            repr(self), source_of(self.pipe), weights_hash(self.pipe), dtype, str(self.device), versions()
        )

    @property
    def weights_state(self) -> tuple[object, ...]:
        """What becomes another where the weights do."""
        return weights_state(self.pipe)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until this pipeline is free. Refuses a run that is started inside a hook of the same pipeline."""
        with lock({part for part in self.pipe.components.values() if isinstance(part, nn.Module)}):
            try:
                yield
            finally:
                if hasattr(self.pipe, "maybe_free_model_hooks"):  # a pipeline made of blocks has none
                    self.pipe.maybe_free_model_hooks()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "pipe" not in vars(self):
            raise AttributeError(name)
        raise AttributeError(
            f"no family knows {self.kind}, so its {name!r} is not known: of this pipeline there are attention, "
            f"activation, and, where it has a scheduler, latents and noise_pred"
        )

    def __repr__(self) -> str:
        count = sum(p.numel() for network in self.networks.values() for p in network.parameters())
        networks = " and ".join(self.networks) or "no network"
        return f"UnknownPipeline({self.kind}, {networks} {count / 1e6:.1f} M parameters)"


def _named(network: nn.Module, before: str) -> dict[str, nn.Module]:
    return {f"{before}{name}": module for name, module in names_as_written(network).items()}
