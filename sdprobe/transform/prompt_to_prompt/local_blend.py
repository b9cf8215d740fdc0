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
from sdprobe.core.hook import Transform
from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.transform.attention_edits.word_columns import Word, as_words, positions_of
from sdprobe.transform.attention_edits.word_places import Grid, WordPlaces

Latents = Shaped[Tensor, "images channels h w"]


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
        edits: the number of the picture of each mask.

    It sees attention as the hooks before it have left it, and the latents of the hooks before it.

    Raises:
        WordNotInPrompt: in a run, for a word that the source, or an edit, does not have.
        ValueError: for a threshold or a beginning that is not from 0 to 1; in a run of one prompt, for the number of a
            prompt that there is not, and for a grid that no attention to the text has.

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
        targets: Sequence[int] | None = None,
    ) -> None:
        for name, share in (("threshold", threshold), ("begin", begin)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is from 0 to 1, not {share!r}")
        self.words = words
        self._of_source, self._of_edit = _pair(words)
        self.source, self.threshold = operator.index(source), threshold
        self.grids = None if grids is None else [(g, g) if isinstance(g, int) else (g[0], g[1]) for g in grids]
        self.targets = None if targets is None else [operator.index(number) for number in targets]
        self.begin = begin

    def start(self, run: Run) -> None:
        if len(run.prompts) < 2:
            raise ValueError(
                f"{self!r} blends an edit into its source, and this run has one prompt: give both, as in sample(model, "
                f"['a red circle', 'a blue circle'], seed=[0, 0])"
            )
        numbers = range(len(run.prompts))
        targets = [k for k in numbers if k != self.source] if self.targets is None else self.targets
        if unknown := [k for k in (self.source, *targets) if k not in numbers]:
            raise ValueError(f"there is no prompt {unknown[0]} in this run of {len(run.prompts)}, counted from 0")
        if self.source in targets or not targets:
            raise ValueError(f"targets are the prompts other than the source, {self.source}, not {targets}")
        _refuse_missing(self._of_source, run.prompts[self.source], "source")
        for k in targets:
            _refuse_missing(self._of_edit, run.prompts[k], "edit")
        each = run.settings.images_per_prompt
        self._sources = [self.source * each + i for _ in targets for i in range(each)]
        self.edits = [k * each + i for k in targets for i in range(each)]
        words: list[list[Word]] = [[] for _ in range(run.settings.images)]
        for image, own in (*((i, self._of_source) for i in self._sources), *((i, self._of_edit) for i in self.edits)):
            words[image] = own
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
        return self._blended(x) if done == total else x  # else it was limited to earlier steps

    def finish(self, run: Run) -> None:
        self.masks = None if self.masks is None else self.masks.cpu()

    def _blended(self, x: Latents) -> Latents:
        done, total = self._done
        if not done or done <= int(self.begin * total):
            return x
        masks = self._found((x.shape[-2], x.shape[-1]))
        self.masks = masks[self._sources] | masks[self.edits]
        blended = x.clone()
        blended[self.edits] = torch.where(self.masks[:, None], x[self.edits], x[self._sources])
        return blended

    def _found(self, size: Grid) -> Bool[Tensor, "images h w"]:
        """Return where the words of each picture are."""
        grids = [self._places.usual_grid()] if self.grids is None else self.grids
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
