"""`Rise`: what the picture loses where a word is hidden at random places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdprobe.core.attribution import Attribution, Word, WordAsked
from sdprobe.core.compose import Hooks
from sdprobe.core.hook import Transform
from sdprobe.core.picture_of import is_of_videos
from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner, SampleSettings
from sdprobe.experiments.experiment import experiment
from sdprobe.experiments.measures.picture_change import PictureChange
from sdprobe.experiments.sampler import OwnLoop
from sdprobe.transform.attention_edits.hide_tokens import HideTokens

CLOSE = 0.01
"""How far the latents of the same picture, made again alone, may be from its own."""


@dataclass(frozen=True)
class Rise(Attribution):
    """What the picture loses where a word is hidden at random places: occlusion of the word, not of pixels.

    The picture is made again for each mask, with the same noise, and the word hidden wherever the mask is 0. With the
    mask Mᵢ(p) of 0 and 1, and fᵢ the mean absolute change of the picture,

    R_w(p) = −cov(f, M(p)) / var(M(p)): how much less the picture changes if place p sees the word.

    It is causal where attention is not: it says what is lost. It costs as many pictures as there are masks, and it has
    noise, which falls with their number. Of a video the word is hidden at the same places of all frames, which have one
    map together.

    >>> import sdprobe
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", steps=2, seed=0, progress=False)
    >>> sdprobe.attributions.Rise(masks=4).heat_map(run, "red")
    HeatMap('red', 16×16)

    Args:
        masks: how many.
        cells: along a side; a cell is hidden or shown as a whole. Where the cells begin is drawn anew for each mask.
        shown: the share of cells that see the word.
        seed: of the masks.

    Raises ValueError for a run that cannot be made again: a saved run, one from an image, one of several images that
    share a seed, or a pipeline with settings of its own.

    Differences from the authors' code: a place sees the word or does not, so the masks are not smoothed; the mean of f
    is taken off, and each place is divided by the variance that it had, so few masks are enough.

    Source: Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models", section 3.
    """

    masks: int = 32
    cells: int = 4
    shown: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.masks < 2 or self.cells < 1 or not 0 < self.shown < 1:
            raise ValueError(f"masks are two or more, cells at least 1, and shown between 0 and 1; not {self!r}")

    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        return Hooks()

    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        run.prompt_of(asked.image).positions(asked.word)
        case = case_of(run, asked.image)
        if not hasattr(run, "model"):
            raise ValueError(f"{self!r} makes the picture again, and this run has no model: it was saved or pickled")
        size = run.model.latent_size(run.settings)
        seen = random_masks(self.masks, size, self.cells, self.shown, self.seed)
        losses = self._losses(run, asked, case, {str(k): mask for k, mask in enumerate(seen)})
        off = seen.float() - seen.float().mean(0)
        slope = torch.einsum("m, m h w -> h w", losses - losses.mean(), off)
        found = -(slope / off.square().sum(0).clamp_min(1e-9))
        return found[None] if is_of_videos(run) else found  # a mask hides the word in all frames

    def _losses(
        self, run: Run, asked: WordAsked, case: Case, seen: Mapping[str, Bool[Tensor, "h w"]]
    ) -> Float[Tensor, " masks"]:
        """How much the picture changes with each mask."""
        own = run.settings
        settings: SampleSettings = {
            "steps": own.steps,
            "guidance_scale": own.guidance_scale,
            "scheduler": own.scheduler,
            "height": own.height,
            "width": own.width,
        }
        if own.frames is not None:
            settings["frames"] = own.frames
        if own.guidance_scale_2 is not None:
            settings["guidance_scale_2"] = own.guidance_scale_2
        hooks = [given for given, live in run.records if isinstance(live, Transform)]
        # Alone first: the rounding of a larger batch would be in the way, and a picture that differs costs no more.
        again = CaseRunner(OwnLoop(run.model), case, settings).run(hooks)
        assert run.latents is not None
        assert again.latents is not None
        apart = float((again.latents[0] - run.latents[asked.image]).abs().max())
        if not apart < CLOSE:
            raise ValueError(
                f"{self!r} makes the picture again, and made another one: its latents are {apart:.2g} away. This run "
                f"has settings that a call of sdprobe.sample with its prompt and seed does not have"
            )
        result = experiment(
            OwnLoop(run.model),
            case,
            {name: [HideTokens(asked.word, places=~mask)] for name, mask in seen.items()},
            {"change": PictureChange()},
            hooks=hooks,
            progress=False,
            **settings,
        )
        if result.failed:
            raise ValueError(f"{self!r} could not hide {asked.word!r}: {result.failed[0]['error']}")
        return torch.tensor([result.values(name, "change")[0] for name in seen])


def random_masks(count: int, size: tuple[int, int], cells: int, shown: float, seed: int) -> Bool[Tensor, "count h w"]:
    """Return masks of cells that are True at random; where the cells begin is drawn anew for each.

    >>> masks = random_masks(100, (16, 24), cells=4, shown=0.5, seed=0)
    >>> masks.shape, 0.4 < float(masks.float().mean()) < 0.6
    (torch.Size([100, 16, 24]), True)
    """
    random = np.random.default_rng(seed)
    (height, width), side = size, max(-(-min(size) // cells), 1)
    found = []
    for _ in range(count):
        rows, columns = ((np.arange(length) + random.integers(side)) // side for length in (height, width))
        drawn = random.random((rows.max() + 1, columns.max() + 1)) < shown
        found.append(torch.from_numpy(drawn[np.ix_(rows, columns)]))
    return torch.stack(found)


def case_of(run: Run, image: int) -> Case:
    """Return the case of one image of a run. Raises ValueError for what a case does not have."""
    own = run.settings
    if own.strength is not None:
        raise ValueError("this run began from an image, which it does not hold: it cannot be made again")
    seed, number = run.seed, image // own.images_per_prompt
    if isinstance(seed, int) and own.images > 1:
        raise ValueError(f"the {own.images} images of this run share a seed: give one each, as in seed=[0, 1]")
    negative = own.negative_prompt[number] if own.negative_given else None
    return Case(own.prompt[number], seed if isinstance(seed, int) else seed[image], negative)
