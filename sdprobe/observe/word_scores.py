"""Scores of one call of the denoiser, whose gradients tell what a word does: `NoiseChange`, `PictureScore`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sdprobe.core.covered_places import covered_by_half
from sdprobe.core.each_image import each_image
from sdprobe.core.step import Step
from sdprobe.observe.attention_leaves import HiddenWord, Positions

Output = Shaped[Tensor, "images channels *size"]
Scores = Float[Tensor, " images"]
Score = Callable[[Output], Scores]
Loss = Callable[[Float[Tensor, "images 3 height width"]], Scores]


@runtime_checkable
class MakesScores(Protocol):
    """Makes the score of a step for a word."""

    def of(self, step: Step, output: Output, word: Positions) -> Score:
        """Return a function of the denoiser's output for the prompt, to one number for each image."""
        ...


class NoiseChange:
    """The noise prediction along the change that the word makes: ⟨ε, d⟩ with d = Δ / ‖Δ‖.

    Δ is the output of the denoiser less that with the word hidden from the picture. It does not change with the output.

    Args:
        region: a mask over the picture, ``[h, w]`` or ``[images, h, w]``: only there the change counts. None for all.
        modules: where the word is hidden; None for every site with text.
    """

    def __init__(self, region: Bool[Tensor, "*images h w"] | None, modules: tuple[str, ...] | None) -> None:
        self.region, self.modules = region, modules

    def of(self, step: Step, output: Output, word: Positions) -> Score:
        with torch.no_grad():
            without = step.predict(step.latents.detach(), HiddenWord(word, self.modules), role="cond")
            change = (output.detach() - without).float()
            if self.region is not None:
                change = change * self._mask(step, change)
            size = change.flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
            direction = change / each_image(size, change)
        return lambda found: (found.float() * direction).flatten(1).sum(1)

    def _mask(self, step: Step, change: Output) -> Bool[Tensor, "#images 1 *frames h w"]:
        assert self.region is not None  # asked for only then
        height, width = self.region.shape[-2:]
        images, (h, w) = len(change), change.shape[-2:]
        if height * w != width * h:
            raise ValueError(
                f"the region is a mask of {height}×{width}, and the latents are {h}×{w}: give a mask with the "
                f"picture's ratio of height to width"
            )
        if self.region.ndim == 3 and len(self.region) != images:
            raise ValueError(f"there are regions for {len(self.region)} images, and this run has {images}")
        mask = covered_by_half(self.region.view(-1, height, width), (h, w))
        if not mask.flatten(1).any(1).all():
            raise ValueError(f"the region covers no place of the {h}×{w} of the latents by half: give a larger one")
        return mask.view(-1, *[1] * (change.ndim - 3), h, w).to(change.device)  # the same in all frames of a video


class PictureScore:
    """The negative of a loss of the picture that is predicted (x0, decoded): what lowers the loss is positive.

    Args:
        loss: returns one number for each image, from images ``[images, 3, H, W]`` in [0, 1].
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def of(self, step: Step, output: Output, word: Positions) -> Score:
        def score(found: Output) -> Scores:
            x0 = step.to_denoised(found, step.latents.detach()).float()
            losses: Any = self.loss(step.run.model.picture_of(x0))
            if isinstance(losses, Tensor) and losses.ndim == 0 and len(x0) == 1:
                losses = losses.unsqueeze(0)
            if not isinstance(losses, Tensor) or losses.shape != (len(x0),):
                what = f"a tensor {list(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
                raise ValueError(
                    f"a loss gives one number for each of the {len(x0)} images, [{len(x0)}]; this gave {what}"
                )
            if torch.is_grad_enabled() and not losses.requires_grad:
                raise ValueError("this loss has no gradient: it must be made of what it is given, by torch, undetached")
            return -losses.float()

        return score
