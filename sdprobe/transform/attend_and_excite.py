"""`AttendAndExcite`: guide x_t until every word gets attention."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.step import Step
from sdprobe.transform.attention_loss_guidance import AttentionGuidance, CrossAttention, Grid, Word
from sdprobe.transform.guidances.guidance import Guidance, Scale

THRESHOLDS: Mapping[float, float] = MappingProxyType({0.0: 0.05, 0.2: 0.5, 0.4: 0.8})
"""The thresholds of the paper, for its steps 0, 10 and 20 of 50, by fraction of the run."""


class AttendAndExcite(AttentionGuidance):
    """Guide x_t, in the early steps, until every word gets attention from some image position.

    Models leave out objects of the prompt if no image position attends to their words. The loss is that of the most
    neglected word: 1 minus its maximum attention over the image. The attention maps of one grid are averaged over heads
    and sites, without the start token, sharpened over the words, and slightly smoothed.

    >>> import sdprobe
    >>> excite = sdprobe.AttendAndExcite(["circle", "square"])
    >>> prompt = "a red circle in the middle and a blue square"
    >>> run = sdprobe.sample(sdprobe.load(), prompt, hooks=[excite], steps=4, seed=0, progress=False)
    >>> run[excite].losses.shape
    torch.Size([2, 1])

    Args:
        words: the words that need attention: words or phrases, each occurrence separately; ``(word, 1)``, only the
            second occurrence; or token positions. The attention to the tokens of one word is summed.
        scale: the step size of the gradient in the first step; it falls to 0.71 of it in the last. 0 only records. The
            default is the paper's; on the embedded model, 10 preserves images better.
        thresholds: by step, the attention that every word must reach: the step is guided again until it does, at most
            ``repeats`` times; steps without a threshold are guided once. None is the paper's 0.05, 0.5 and 0.8 at steps
            0, 10 and 20 of 50, or at the same fraction of another number of steps.
        repeats: the maximum number of gradient updates in a step with a threshold.
        stop: the first step that is not guided; None is half of the steps, as the paper's 25 of 50.
        grid: the grid of the sites used, ``(h, w)`` or a number for a square one, at least 2×2. None is the coarsest of
            the down and up blocks: 16×16 for Stable Diffusion at 512 pixels, as in the paper; 8×8 for the embedded
            model, which of 16×16, 8×8 and 4×4 is the best for objects that were left out.

    A prompt of the run that has none of the words is not guided. With ``thresholds={}`` a run equals that of
    diffusers' StableDiffusionAttendAndExcitePipeline (if its scheduler does not scale the latents). After a threshold
    is reached, that pipeline makes one update more than Algorithm 1.

    Attributes and other errors: see `AttentionGuidance`.

    Source: Chefer et al. 2023, "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion
    Models", section 3 and Algorithm 1. The sharpening (softmax of 100 times the attention) is that of its code.
    """

    share: ClassVar[float] = 0.5

    def __init__(
        self,
        words: Collection[Word],
        scale: Scale = 20.0,
        thresholds: Mapping[int, float] | None = None,
        *,
        repeats: int = 20,
        stop: int | None = None,
        grid: int | Grid | None = None,
    ) -> None:
        super().__init__(words, scale, stop=stop, repeats=repeats, grids=None if grid is None else (grid,))
        if self.grids is not None and min(self.grids[0]) < 2:
            raise ValueError(f"maps are smoothed, so a grid is at least 2×2, not {grid!r}")
        self.thresholds, self.grid = thresholds, grid

    def rate(self, step: Step) -> float:
        # The paper assumes latents with the variance of images; with a larger scale, the gradient gets smaller.
        fall = math.sqrt(1 - 0.5 * step.index / max(step.total - 1, 1))
        return Guidance(self.scale).at(step) * fall * (step.signal**2 + step.noise**2)

    def rounds(self, step: Step) -> tuple[int, float]:
        by_share = {round(share * step.total): least for share, least in THRESHOLDS.items()}
        least = (by_share if self.thresholds is None else self.thresholds).get(step.index)
        return (1, 0.0) if least is None else (self.repeats, 1 - least)

    def loss(self, looks: CrossAttention) -> Float[Tensor, ""] | None:
        subjects = [positions for word in self.words for positions in looks.tokens_of(word)]
        if not subjects:
            return None
        # The first token takes most of the attention, and the last is padding. A template may begin with more tokens,
        # and where none comes after the text the last is a word.
        roles, last = looks.prompt.roles, looks.sites[0].shape[-1] - 1
        first, last = max(1, roles.count("start")), last + (roles[last : last + 1] == ("word",))
        if outside := [p for positions in subjects for p in positions if not first <= p < last]:
            raise ValueError(
                f"token {outside[0]} cannot be excited: Attend-and-Excite leaves out the first token and the last, so "
                f"a position is {first} to {last - 1}"
            )
        sharp = (100 * looks.mean()[..., first:last]).softmax(-1)
        maps = torch.stack([sharp[..., [p - first for p in positions]].sum(-1) for positions in subjects])
        return (1 - smoothed(maps).amax((1, 2))).max()


def smoothed(maps: Float[Tensor, "words h w"]) -> Float[Tensor, "words h w"]:
    """Smooth maps with the 3×3 Gaussian kernel of the paper's code: nominal standard deviation 0.5, in effect 0.71."""
    line = torch.exp(-(torch.arange(-1.0, 2.0, device=maps.device) ** 2))
    kernel = torch.outer(line, line)
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    blurred: Tensor = F.conv2d(padded, (kernel / kernel.sum()).to(maps)[None, None])[:, 0]
    return blurred
