"""The hooks with which a family is looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text


class AsksAgain(Observer):
    """Asks the denoiser again for the same latents."""

    def start(self, run: Run) -> None:
        self.same: list[bool] = []

    def noise_pred(self, x: Tensor, step: Step) -> None:
        assert step.model_output is not None
        self.same.append(torch.equal(step.predict(step.latents), step.model_output))


class AttentionSeen(Observer):
    """Computes each call from its probabilities, and keeps the places of image and text."""

    strict = False

    def __init__(self, width: int = 16) -> None:
        self.width = width

    def start(self, run: Run) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def attention(self, attn: Attention, site: Site) -> None:
        probs = attn.probs()
        total = probs.sum(-1)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-3), f"{site.name}: probabilities do not sum to 1"
        image, text = len(range(probs.shape[-2])[site.image]), 0
        if site.text is not None:
            text = len(range(probs.shape[-1])[site.text])
        self.seen.append((site.kind, site.grid, image, text, [row.prompt for row in site.rows]))


class OtherEmbedding(Transform):
    """Turns round the embedding of one token of the prompt."""

    def __init__(self, position: int) -> None:
        self.position = position

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role != "cond":
            return x
        changed = x.clone()
        changed[:, self.position] = -x[:, self.position] + 0.5
        return changed


class FirstKeys(Observer):
    """The keys ``[keys, heads, width]`` of the first call that sees the prompt."""

    strict = False

    def start(self, run: Run) -> None:
        self.site: Site | None = None

    def attention(self, attn: Attention, site: Site) -> None:
        if self.site is None and site.text is not None and any(row.role == "cond" for row in site.rows):
            row = next(k for k, row in enumerate(site.rows) if row.role == "cond")
            self.site, self.key = site, attn.key[row].transpose(0, 1).clone()


class StreamsSeen(Observer):
    """The numbers of places of image and text in what blocks return."""

    modules = ("*.0.*",)
    strict = False

    def start(self, run: Run) -> None:
        self.places: set[int] = set()
        self.texts: set[int] = set()

    def activation(self, x: Tensor, site: Site) -> None:
        if x.ndim == 3 and site.grid is not None:
            self.places.add(len(range(x.shape[1])[site.image]))
        if x.ndim == 3 and site.text is not None:
            self.texts.add(len(range(x.shape[1])[site.text]))
