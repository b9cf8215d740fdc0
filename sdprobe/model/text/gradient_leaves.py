"""`GradientLeaves`: prompt and token embeddings as leaf tensors, for transforms that need their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.compose import Hooks
from sdprobe.core.hook import Transform
from sdprobe.core.run import Run
from sdprobe.core.text import Text
from sdprobe.model.text.conditioning import EMBEDS, Conditioning

Leaves = Mapping[str, Shaped[Tensor, "entries ..."]]


class GradientLeaves:
    """Makes the leaf tensors that a run's transforms name in ``needs_grad``, again in every step.

    Args:
        run_model: the run's own copy of the model.
        run: the run.
        hooks: its hooks.
        conditioning: the conditioning, encoded without gradients.
    """

    def __init__(self, run_model: Any, run: Run, hooks: Hooks, conditioning: Conditioning) -> None:
        self.run_model, self.run, self.hooks, self.conditioning = run_model, run, hooks, conditioning
        self.names = hooks.grad_leaves

    def grow(self, latents: Tensor) -> tuple[Conditioning, Leaves]:
        """Return the conditioning of a step, and the leaf tensors it depends on, by name."""
        leaves: dict[str, Tensor] = {"latents": latents} if "latents" in self.names else {}
        told = self.conditioning
        if "token_embeds" in self.names:
            # Encoded again in every step, because a backward pass frees the graph.
            with torch.enable_grad():
                tokens = _TokenLeaves()
                told = self.run_model.encode(self.run, Hooks(self.hooks.transforms, tokens), self.run.roles)
            leaves |= tokens.leaves
            if "prompt_embeds" in self.names:
                leaves["prompt_embeds"] = told.arguments[EMBEDS]
            return told, leaves
        arguments, prompt_leaf = grow_prompt_leaf(dict(told.arguments), self.hooks)
        return replace(told, arguments=arguments), {**leaves, **prompt_leaf}


def grow_prompt_leaf(arguments: dict[str, Any], hooks: Hooks) -> tuple[dict[str, Any], Leaves]:
    """The arguments of one call of the denoiser, whose prompt embeddings are a leaf where a transform asks for it."""
    if "prompt_embeds" not in hooks.grad_leaves:
        return arguments, {}
    leaf = arguments[EMBEDS].detach().requires_grad_()
    return {**arguments, EMBEDS: leaf}, {"prompt_embeds": leaf}


class _TokenLeaves(Transform):
    """Makes the encoder's input a leaf tensor, after all other transforms at ``token_embeds``."""

    def __init__(self) -> None:
        self.leaves: dict[str, Tensor] = {}

    def token_embeds(self, x: Tensor, text: Text) -> Tensor:
        leaf = x.detach().requires_grad_()
        side = "negative_" if text.role == "uncond" else ""
        self.leaves[f"{side}token_embeds{text.encoder.removeprefix('text_encoder')}"] = leaf
        return leaf
