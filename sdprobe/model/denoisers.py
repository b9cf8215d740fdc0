"""`Denoisers`: the networks of a pipeline that are called in its steps: one, or several, each in steps of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from sdprobe.model.denoiser.compiled_parts import as_written, names_as_written
from sdprobe.model.denoiser.token_places import heads_of_queries

Kind = TypeVar("Kind", bound="Denoisers")  # not typing.Self, which the runtime type checks do not support


class Denoisers:
    """The denoisers of a pipeline.

    Names of modules of the first are those that they have in it. Names of modules of others begin with the name that
    their denoiser has in the pipeline, as in ``transformer_2.blocks.0.attn2``.

    Attributes:
        pipe: the pipeline.
        network: the name of the pipeline's denoiser; the first, where it has several.
        text_inlet: the names of the denoiser's modules, of those it has, that the text goes through once, in order,
            before every site.
    """

    pipe: Any
    network: ClassVar[str] = "transformer"
    text_inlet: ClassVar[tuple[str, ...]] = ("caption_projection",)

    @property
    def denoiser(self) -> Any:
        """The network that is called in every step, or in the first of them, an `nn.Module`."""
        return as_written(getattr(self.pipe, self.network))

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the pipeline's denoisers: one, or several that run in steps of their own."""
        return (self.network,)

    def network_at(self, timestep: float | Tensor) -> str:
        """Return the name of the denoiser that runs at the scheduler's number of a noise level."""
        return self.network

    @property
    def denoisers(self) -> Mapping[str, Any]:
        """Each denoiser by the beginning of its modules' names: of the first ``""``, of others their name and a dot."""
        return {prefix: as_written(own) for prefix, own in self.denoisers_as_called.items()}

    @property
    def denoisers_as_called(self) -> Mapping[str, Any]:
        """The same, as the pipeline holds them: with what `torch.compile` wraps around them."""
        return {self._prefix_of(name): getattr(self.pipe, name) for name in self.networks}

    def prefix_at(self, timestep: float | Tensor) -> str:
        """Return the beginning of the names of the modules of the denoiser that runs at a noise level."""
        return self._prefix_of(self.network_at(timestep))

    def runs_at(self, module: str, timestep: float | Tensor) -> bool:
        """Whether a module is of the denoiser that runs at a noise level."""
        of = max((prefix for prefix in map(self._prefix_of, self.networks) if module.startswith(prefix)), key=len)
        return of == self.prefix_at(timestep)

    def _prefix_of(self, name: str) -> str:
        return "" if name == self.network else f"{name}."

    def answered_by(self: Kind, other: Denoisers) -> Kind:
        """Return a copy of this model, in its run, with the denoiser of another model of the family."""
        answering = copy.copy(self)
        answering.pipe = copy.copy(self.pipe)
        for name in self.networks:
            setattr(answering.pipe, name, getattr(other.pipe, name))
        return answering

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The denoisers' modules by their dotted names, without what torch.compile adds to these."""
        every = self.denoisers.items()
        return {prefix + name: module for prefix, own in every for name, module in names_as_written(own).items()}

    @staticmethod
    def heads_of(module: nn.Module) -> int:
        """Return the number of heads of the queries of an attention module."""
        return heads_of_queries(module)

    def inlet_of(self, name: str) -> tuple[nn.Module, ...]:
        """Return what the text goes through in order, in the denoiser of a module, before every site."""
        prefix = max((own for own in self.denoisers if name.startswith(own)), key=len)
        modules = self.modules
        return tuple(modules[prefix + own] for own in self.text_inlet if prefix + own in modules)

    @property
    def text_streams(self) -> tuple[str, ...]:
        """The modules of joint attention where the text has a stream of its own, which goes on after them."""
        return tuple(
            name
            for name, part in self.modules.items()
            if getattr(part, "added_kv_proj_dim", None) is not None and not getattr(part, "context_pre_only", False)
        )
