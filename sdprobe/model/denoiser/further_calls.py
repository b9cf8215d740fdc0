"""`predicting`: further calls of the denoiser within a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.compose import Hooks
from sdprobe.core.run import Role
from sdprobe.core.step import Step
from sdprobe.model.denoiser.cache_states import caches_set_aside
from sdprobe.model.denoiser.gradient_checkpointing import uncheckpointed
from sdprobe.model.denoiser.module_hooks import ModuleHooks
from sdprobe.model.model_lock import lock

Predict = Callable[[Step, Tensor, Iterable[Any], Role | None, Tensor | None, Any], Tensor]


def predicting(run_model: Any, module_hooks: ModuleHooks, conditioning: Any) -> Predict:
    """Return the function behind `Step.predict`: a call of the denoiser with this run's conditioning and transforms."""

    def predict(
        step: Step, x: Tensor, hooks: Iterable[Any], role: Role | None, beside: Tensor | None, by: Any
    ) -> Tensor:
        if module_hooks.busy:
            raise RuntimeError(
                "step.predict was called at a point inside the denoiser, which is running: call it at latents, "
                "model_output or noise_pred"
            )
        rows, told = step.rows, conditioning
        if role is not None:
            rows = tuple(row for row in step.rows if row.role == role)
            if not rows:
                raise ValueError(
                    f"step {step.index} has no rows of role {role!r}: guidance 1 needs none, or they were left out"
                )
            told = run_model.narrowed(conditioning, step.rows_of(role))
        if beside is not None:
            run_model.refuse_beside()
            told = replace(told, beside=beside)
        at = replace(step, latents=x, rows=rows, model_output=None, further=True)
        if by is not None:
            still = by.freeze_parameters() if torch.is_grad_enabled() else nullcontext()
            with lock(by.denoisers.values()), still:  # its other parts may be the run's own
                answering = run_model.answered_by(by)
                return torch.cat([answering.denoise(x, part, own) for part, own in run_model.passes(at, told)])
        frozen = run_model.freeze_parameters() if torch.is_grad_enabled() else nullcontext()
        aside = caches_set_aside(*run_model.denoisers.values()) if module_hooks.has_caches else nullcontext()
        own = Hooks(*hooks)
        # A checkpointed block is run again after this call, where its hooks cannot act.
        kept = uncheckpointed(*run_model.denoisers.values()) if len(own) and torch.is_grad_enabled() else nullcontext()
        listening = module_hooks.with_hooks(own)
        with frozen, aside, kept:
            outputs = []
            for part, asked in run_model.passes(at, told):
                with listening.listen(part, asked.arguments):
                    outputs.append(run_model.denoise(x, part, asked))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    return predict
