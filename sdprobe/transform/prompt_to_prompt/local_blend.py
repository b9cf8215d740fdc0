"""`LocalBlend`: change a picture only where some words are, and keep the source elsewhere."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.grid import image_grid
from sdprobe.core.hook import Transform
from sdprobe.core.limits.row_subset import numbers_in_whole, whole_run
from sdprobe.core.possible_grids import Grid, as_grids, possible_grids
from sdprobe.core.prompt import Prompt, WordNotInPrompt, positions_of
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.transform.attention_edits.word_columns import Word, as_words
from sdprobe.transform.attention_edits.word_places import WordPlaces

Latents = Shaped[Tensor, "images channels *size"]


class LocalBlend(Transform):
    """Keep the latents of an edited picture those of its source, except where some words are.

    The source and its edits are prompts of one run. At the beginning of each step, and after the last, the latents of
    an edit become x_source + mask · (x_edit − x_source). The mask is where the words are in the source or in the edit:
    their attention maps, averaged over heads, sites and the steps so far, are widened by a maximum over 3×3 places,
    brought to the size of the latents, divided by their maximum, and cut at the threshold. In joint attention the maps
    are of the picture's attention to the text.

    >>> import sdprobe
    >>> blend = sdprobe.LocalBlend(("circle", "star"))
    >>> prompts = ["a red circle left of a blue square", "a red star left of a blue square"]
    >>> run = sdprobe.sample(sdprobe.load(), prompts, hooks=[blend], steps=4, seed=[0, 0], progress=False)
    >>> run[blend].masks.shape, run[blend].edits
    (torch.Size([1, 16, 16]), [1])
    >>> outside = ~run[blend].masks[0]
    >>> bool((run.latents[1] == run.latents[0])[:, outside].all())
    True

    Args:
        words: what may change: a word or phrase, or a token position, in the prompts of source and edit; or a pair,
            (in the source, in the edit), each a word or a list of words, since a word that is swapped has two names.
            Every occurrence counts, in the tokens of every text encoder.
        source: the number of the prompt whose pictures are the sources. With several pictures of each prompt, those of
            the same number go together; give them the same seeds.
        threshold: from 0 to 1: a place may change if a map, divided by its maximum, is above it.
        grids: the sites used, by their grid, ``(h, w)`` or a number for a square one. None is the grid that is closest
            to 16×16, the authors' for Stable Diffusion at 512 pixels.
        begin: the share of the steps that pass before it acts.
        targets: the numbers of the prompts that are edits; None for all but the source.

    Attributes:
        masks: (in a run, like all that follow) ``[edits, h, w]``, where each edit may change, after the last step that
            it acted in; None before the first.
        edits: the number of the picture of each mask, in the whole run.

    It sees attention as the hooks before it have left it, and the latents of the hooks before it. In a run that a hook
    ends early (`Step.stop`) the last step made is the last. A run that goes on from a checkpoint begins the maps anew.
    Limited by ``only(rows=...)``, the source's rows must be among those that it gets.

    Raises:
        WordNotInPrompt: in a run, for a word that the source, or an edit, does not have.
        ValueError: for a threshold or a beginning that is not from 0 to 1; in a run of one prompt, for the number of a
            prompt that there is not, for rows without the source, and for grids that no attention to the text has.

    Source: Hertz et al. 2023, "Prompt-to-Prompt Image Editing with Cross-Attention Control", section 3.2 (local
    editing). The order of operations, the threshold and the beginning are those of ``LocalBlend`` in the authors' code.
    There, the maps are of the 16×16 sites of the down and up blocks, and all pictures of a batch have one source; here
    sites are chosen by their grid alone, and each picture of a prompt has a source of its own.
    """

    kinds = ("cross", "joint")

    def __init__(
        self,
        words: Word | Sequence[Word | Sequence[Word]],
        *,
        source: int = 0,
        threshold: float = 0.3,
        grids: Collection[int | Grid] | None = None,
        begin: float = 0.2,
        targets: int | Sequence[int] | None = None,
    ) -> None:
        for name, share in (("threshold", threshold), ("begin", begin)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is from 0 to 1, not {share!r}")
        self.words = words
        self._of_source, self._of_edit = _pair(words)
        self.source, self.threshold = operator.index(source), threshold
        self.grids = as_grids(grids)
        several = targets if isinstance(targets, Sequence) or targets is None else [targets]
        self.targets = None if several is None else [*map(operator.index, several)]
        self.begin = begin

    def start(self, run: Run) -> None:
        whole, images = whole_run(run), numbers_in_whole(run)
        if len(whole.prompts) < 2:
            raise ValueError(
                f"{self!r} blends an edit into its source, and this run has one prompt: give both, as in sample(model, "
                f"['a red circle', 'a blue circle'], seed=[0, 0])"
            )
        numbers = range(len(whole.prompts))
        targets = [k for k in numbers if k != self.source] if self.targets is None else self.targets
        if unknown := [k for k in (self.source, *targets) if k not in numbers]:
            raise ValueError(f"there is no prompt {unknown[0]} in this run of {len(whole.prompts)}, counted from 0")
        if self.source in targets or not targets:
            raise ValueError(f"targets are the prompts other than the source, {self.source}, not {targets}")
        each = whole.settings.images_per_prompt
        self.edits = [image for k in targets for image in range(k * each, (k + 1) * each) if image in images]
        if not self.edits:
            raise ValueError(f"{self!r} would never act: it gets no image of a prompt that it edits")
        sources = [self.source * each + image % each for image in self.edits]
        if lost := [pair for pair in zip(sources, self.edits, strict=True) if pair[0] not in images]:
            raise ValueError(
                f"{self!r} blends image {lost[0][1]} into image {lost[0][0]}, and is limited to rows without it: leave "
                f"the source among the rows, and say what is edited with targets="
            )
        _refuse_missing(self._of_source, whole.prompts[self.source], "source")
        for k in dict.fromkeys(image // each for image in self.edits):
            _refuse_missing(self._of_edit, whole.prompts[k], "edit")
        self._chosen = (
            None if self.grids is None else [image_grid(own, repr(self)) for own in possible_grids(run, self.grids)]
        )
        self._from, self._at = ([images.index(image) for image in own] for own in (sources, self.edits))
        words: list[list[Word]] = [[] for _ in images]
        for k, own in (*((k, self._of_source) for k in self._from), *((k, self._of_edit) for k in self._at)):
            words[k] = own
        self._places, self._done = WordPlaces(words), (0, 1)
        self.masks: Bool[Tensor, "edits h w"] | None = None

    def attention(self, attn: Attention, site: Site) -> Attention:
        if not site.further:
            self._places.add(attn, site)
            self._done = (site.step.index + 1, site.step.total)
        return attn

    def latents(self, x: Latents, step: Step) -> Latents:
        return self._blended(x)

    def final_latents(self, x: Latents, run: Run) -> Latents:
        done, total = self._done
        last = total if run.stopped_at is None else run.stopped_at + 1
        return self._blended(x) if done == last else x  # else it was limited to earlier steps

    def finish(self, run: Run) -> None:
        self.masks = None if self.masks is None else self.masks.cpu()

    def _blended(self, x: Latents) -> Latents:
        done, total = self._done
        if not done or done <= int(self.begin * total + 1e-6):
            return x
        masks = self._found((x.shape[-2], x.shape[-1]))
        self.masks = masks[self._from] | masks[self._at]
        blended = x.clone()
        blended[self._at] = torch.where(self.masks[:, None], x[self._at], x[self._from])
        return blended

    def _found(self, size: Grid) -> Bool[Tensor, "images h w"]:
        """Return where the words of each picture are."""
        grids = [self._places.usual_grid()] if self._chosen is None else self._chosen
        widened = F.max_pool2d(self._places.at(grids=grids), 3, stride=1, padding=1)
        maps = F.interpolate(widened[None], size)[0]
        return maps > self.threshold * maps.amax((-2, -1), keepdim=True)


def _pair(words: Any) -> tuple[list[Word], list[Word]]:
    """Return the words in the source and those in an edit."""
    if isinstance(words, (str, int)):
        return as_words(words), as_words(words)
    if not isinstance(words, Sequence) or len(words) != 2:
        raise ValueError(
            f"words are one word or phrase, or a pair of those in the source and those in the edit, as in "
            f"('circle', ['star', 'ring']), not {short_repr(words)}"
        )
    return as_words(words[0]), as_words(words[1])


def _refuse_missing(words: Sequence[Word], prompt: Prompt, name: str) -> None:
    for word in words:
        if not positions_of(prompt, word):
            try:
                prompt.positions(word)
            except WordNotInPrompt as error:
                raise WordNotInPrompt(
                    f"{error}. A word that differs is given as a pair, (in the source, in the edit); this is the {name}"
                ) from None
