"""The denoiser's last call in a stock pipeline, made once more with other latents or fewer rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.step import Step
from sdprobe.model.denoiser.apply_limited_text import apply_limited_text
from sdprobe.model.latents_form import LatentsForm
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import EMBEDS, join


@dataclass(frozen=True)
class DenoiserCall:
    """What a pipeline told its denoiser: the call's arguments, with an entry for each row.

    Args:
        args: by their places.
        kwargs: by their names.
        rows: how many rows there are.
        form: how the denoiser is shown latents.
        beside: further tokens, which stand after the prompt embeddings when the call is repeated.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    rows: int
    form: LatentsForm
    beside: Shaped[Tensor, "rows tokens width"] | None = None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments by name."""
        return self.kwargs

    def of(self, rows: slice | list[int]) -> DenoiserCall:
        """Those of these rows only."""

        def taken(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[rows] if value.ndim and len(value) == self.rows else value
            if isinstance(value, (tuple, list)):
                return type(value)(map(taken, value))
            return {name: taken(own) for name, own in value.items()} if isinstance(value, dict) else value

        args, kwargs = taken(self.args), taken(dict(self.kwargs))
        return replace(self, args=args, kwargs=kwargs, rows=len(self.form.rows_of(shown_of(args, kwargs))))

    def showing(self, rows: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other latents; what is shown beside them, in further channels, stays."""
        shown = shown_of(self.args, self.kwargs)
        old = self.form.rows_of(shown)
        rows = rows.to(old.dtype)
        if old.ndim == 4 and old.shape[1] > rows.shape[1]:
            rows = torch.cat([rows, old[:, rows.shape[1] :]], dim=1)
        return with_shown(self.args, dict(self.kwargs), self.form.shown_as(rows, shown))


def shown_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a network is shown, among the arguments of a call of it."""
    shown: Any = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "sample"]
    return shown


def embeds_of(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Shaped[Tensor, "rows tokens width"] | Sequence[Shaped[Tensor, "tokens width"]] | None:
    """What a network is told of the prompts, among the arguments of a call of it; None where it is told nothing."""
    told: Tensor | Sequence[Tensor] | None = kwargs.get(EMBEDS, args[2] if len(args) > 2 else None)
    return told


def with_shown(args: tuple[Any, ...], kwargs: dict[str, Any], x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a network, with something else shown to it."""
    if args:
        return (x, *args[1:]), kwargs
    return args, kwargs | {"hidden_states" if "hidden_states" in kwargs else "sample": x}


class RepeatedDenoiser:
    """What `predicting` asks of a model, answered by the stock pipeline's own last call.

    Args:
        model: the model of the pipeline.
        timestep: what the scheduler scales the latents by, where it does.
    """

    def __init__(self, model: Any, timestep: Any) -> None:
        self.model, self.timestep = model, timestep

    @property
    def denoisers(self) -> Mapping[str, Any]:
        own: Mapping[str, Any] = self.model.denoisers
        return own

    def freeze_parameters(self) -> AbstractContextManager[None]:
        frozen: AbstractContextManager[None] = self.model.freeze_parameters()
        return frozen

    def answered_by(self, other: Any) -> RepeatedDenoiser:
        return RepeatedDenoiser(self.model.answered_by(other), self.timestep)

    def refuse_beside(self) -> None:
        self.model.refuse_beside()

    def passes(self, step: Step, told: DenoiserCall) -> list[tuple[Step, DenoiserCall]]:
        return [(step, told)]

    def narrowed(self, told: DenoiserCall, rows: slice | list[int]) -> DenoiserCall:
        return told.of(rows)

    @staticmethod
    def split(beside: Tensor | None, counts: list[int]) -> list[Tensor | None]:
        """Further tokens for each of several calls, by their numbers of rows; each call refuses another number."""
        if beside is None or sum(counts) != len(beside):
            return [beside] * len(counts)
        return list(beside.split(counts))

    def denoise(self, x: Latents, step: Step, told: DenoiserCall) -> Shaped[Tensor, "rows channels *size"]:
        scheduler, pipe = self.model.pipe.scheduler, self.model.pipe
        rows = torch.cat([x] * (told.rows // len(x)))
        rows = self.model.packed(rows)
        if self.timestep is not None:
            rows = scheduler.scale_model_input(rows, self.timestep)
        if getattr(pipe, "controlnet", None) is not None and not torch.equal(
            rows, told.form.rows_of(shown_of(told.args, told.kwargs))
        ):
            raise RuntimeError(
                "step.predict cannot ask for other latents here: what ControlNet adds was made of the loop's own"
            )
        args, kwargs = told.showing(rows)
        kwargs = apply_limited_text(kwargs, step)
        if told.beside is not None:
            kwargs = join(kwargs, told.beside)
        args, kwargs = self.model.call_as_made(args, kwargs)
        output = getattr(pipe, self.model.network_at(step.timestep))(*args, **kwargs)
        answer = output[0] if isinstance(output, tuple) else output.sample
        made: Tensor = self.model.output_of(answer, *x.shape[2:])
        return made[:, : x.shape[1]]
