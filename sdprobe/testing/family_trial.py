"""`FamilyTrial`: the family under test, a small pipeline of it, and its runs of two steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.compose import Hook
from sdprobe.core.run import Run
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.sampling.loop import sample
from sdprobe.stock_pipelines.attach import attach
from sdprobe.testing.stock_call import call_stock, made_of, stock_arguments


@dataclass(frozen=True)
class FamilyTrial:
    """One family under test.

    Args:
        pipeline: makes a small pipeline of the family.
        prompt: the prompt of its runs.
        settings: further arguments of `sample`, such as ``frames``; those of a law do not change them.
    """

    pipeline: Callable[[], Any]
    prompt: str = "a red circle"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def model(self) -> Model:
        """The model."""
        return load(self.pipeline())

    def asked(self, **changed: Any) -> dict[str, Any]:
        """Return the arguments of `sample` other than the model and the hooks."""
        usual = {"prompt": self.prompt, "steps": 2, "guidance_scale": 3.0, "seed": 0, "height": 16, "width": 16}
        asked = {**usual, **changed, **self.settings}
        if "negative_prompt" not in signature(type(self.model.pipe).__call__).parameters:
            asked.pop("negative_prompt", None)  # the pipeline takes none
        unit = self.model.multiple  # a pipeline may take no picture so small
        return asked | {side: -(-asked[side] // unit) * unit for side in ("height", "width")}

    def run(self, *hooks: Hook, **changed: Any) -> Run:
        """Run by `sample`."""
        return sample(self.model, hooks=hooks, progress=False, **self.asked(**changed))

    def stock(self, output_type: str = "pt", **changed: Any) -> Tensor:
        """Return what the stock pipeline makes."""
        return call_stock(self.model, self.asked(**changed), output_type)

    def attached(self, *hooks: Hook, **changed: Any) -> tuple[Run, Tensor]:
        """Return the run of the stock pipeline with hooks attached, and the pictures that it returned."""
        pipe, asked = self.model.pipe, self.asked(**changed)
        generator = torch.Generator("cpu").manual_seed(asked["seed"])
        pipe.set_progress_bar_config(disable=True)
        with attach(pipe, hooks) as run:
            made = made_of(pipe(**stock_arguments(self.model, asked), generator=generator, output_type="pt"))
        return run, torch.as_tensor(made)
