"""`knock_out`: hide words from the picture, and see what of it they were needed for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from sdprobe.core.given_hooks import Given
from sdprobe.core.limits.limited_hook import Limit, Sites, Steps
from sdprobe.core.limits.only import only
from sdprobe.core.prompt import Prompt
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import Condition, Design, NotInThisCase
from sdprobe.experiments.experiment import Cases, How, Measures, experiment
from sdprobe.experiments.measures.mask_on_grid import mask_on_grid
from sdprobe.experiments.measures.picture_change import PictureChange
from sdprobe.experiments.moved_region import moved_region
from sdprobe.experiments.random_words import random_words
from sdprobe.experiments.result import Result
from sdprobe.experiments.seed_of import seed_of
from sdprobe.experiments.untouched_run import untouched_run
from sdprobe.plot.heatmap import HeatMap
from sdprobe.transform.attention_edits.hide_tokens import HideTokens
from sdprobe.transform.attention_edits.word_columns import Word

Words = Word | Sequence[Word]


@dataclass(frozen=True)
class KnockOut(Design):
    """The conditions of `knock_out`.

    Args:
        words: by name, the words that are hidden together.
        where: as in `knock_out`.
        sites: likewise.
        heads: likewise.
        in_steps: likewise.
    """

    words: Mapping[str, Sequence[Word]]
    where: Any = field(default=None, repr=False)
    sites: Sites | None = None
    heads: Sequence[int] | None = None
    in_steps: int | Steps | None = None

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return for each choice of words the condition and its controls, and random words for each number of them.

        Raises `WordNotInPrompt` for a word that the case's prompt does not have.
        """
        prompt, found = runner.read(), dict[str, Condition]()
        chosen = {name: [in_case(word, case) for word in words] for name, words in self.words.items()}
        for name, words in chosen.items():
            labels = {"hidden": said(words)}
            found[f"without {name}"] = self._hiding(words, case, runner, labels)
            if self.where is not None:
                found[f"without {name}, in a random region"] = self._elsewhere(words, case, runner, labels)
            if self.heads is not None:
                found[f"without {name}, at random heads"] = self._at_other_heads(words, case, runner, labels)
        controls = self._random_words(prompt, list(chosen.values()), case, runner)
        if taken := [name for name in controls if name in found]:
            raise ValueError(f"{taken[0]!r} is the name of a control: call your words something else")
        return found | controls

    def result(self) -> type[Result]:
        return Result

    def _hiding(
        self, words: list[Word], case: Case, runner: CaseRunner, labels: Mapping[str, str], control: bool = False
    ) -> Condition:
        if self.where is None:
            return Condition(self._hooks(words, None, self.heads), control, labels)

        def hooks() -> Given:
            return self._hooks(words, region_of(self.where, case, runner), self.heads)

        return Condition(hooks, control, labels)

    def _elsewhere(self, words: list[Word], case: Case, runner: CaseRunner, labels: Mapping[str, str]) -> Condition:
        def hooks() -> Given:
            sites = [site for site in untouched_run(runner).sites if self._includes(site)]
            grids = [site.grid for site in sites if site.grid]
            return self._hooks(
                words,
                moved_region(region_of(self.where, case, runner), grids, [seed_of(case.prompt, case.seed)]),
                self.heads,
            )

        return Condition(hooks, True, labels)

    def _at_other_heads(
        self, words: list[Word], case: Case, runner: CaseRunner, labels: Mapping[str, str]
    ) -> Condition:
        def hooks() -> Given:
            assert self.heads is not None  # asked for only then
            everywhere = range(min(site.heads for site in untouched_run(runner).sites if self._includes(site)))
            heads = other_heads(self.heads, len(everywhere), [seed_of(case.prompt, case.seed)])
            region = None if self.where is None else region_of(self.where, case, runner)
            return self._hooks(words, region, heads)

        return Condition(hooks, True, labels)

    def _random_words(
        self, prompt: Prompt, choices: Sequence[list[Word]], case: Case, runner: CaseRunner
    ) -> dict[str, Condition]:
        """Return for each number of words a condition that hides as many others, which no condition hides."""
        hidden = {position for words in choices for word in words for position in prompt.positions(word)}
        asked: dict[int, list[int]] = {}
        for words in choices:
            tokens = tokens_of_words(prompt, words)
            asked[len(tokens)] = max(asked.get(len(tokens), []), tokens, key=sum)
        found = {}
        for count, tokens in sorted(asked.items()):
            name = "without a random word" if count == 1 else f"without {count} random words"
            try:
                words = list[Word](random_words(prompt, hidden, tokens, [seed_of(case.prompt, case.seed, count)]))
            except ValueError as error:
                found[name] = Condition(_raising(error), True)  # a row that says so
                continue
            found[name] = self._hiding(words, case, runner, {"hidden": said(words)}, control=True)
        return found

    def _hooks(self, words: list[Word], region: Tensor | None, heads: Sequence[int] | None) -> Given:
        if region is None:
            hook = HideTokens(words, heads=heads)
        else:
            # As a mask, half of the embedded model's objects would cover no place of its coarsest grid by half.
            covered = region.float()
            hook = HideTokens(words, order=covered, share=covered.mean().item(), heads=heads)
        return [only(hook, steps=self.in_steps, sites=self.sites)]

    def _includes(self, site: Any) -> bool:
        limit = Limit.of(sites=self.sites)
        return limit.sites is None or limit.includes_site(site)


def knock_out(
    model: Any,
    cases: Cases,
    words: Words | Mapping[str, Words],
    *,
    where: Any = None,
    sites: Sites | None = None,
    heads: Sequence[int] | None = None,
    in_steps: int | Steps | None = None,
    measures: Measures | None = None,
    **how: Unpack[How],
) -> Result:
    """Keep the picture from looking at words, one choice of words after the other, and measure what is lost.

    What is lost was needed. What stays may have been in the other tokens too, as the text encoder moves it there; that
    nothing is lost does not say that the model does not use the word.

    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> case = experiments.Case("a red circle on a grey background", words={"colour": "red", "shape": "circle"})
    >>> result = knock_out(
    ...     sdprobe.load(),
    ...     case,
    ...     {"colour": "{colour}", "both": ["{colour}", "{shape}"]},
    ...     measures={"mean": lambda run: run.latents.mean()},
    ...     steps=2,
    ...     progress=False,
    ... )
    >>> result.conditions
    ('untouched', 'without colour', 'without both', 'without a random word', 'without 2 random words')
    >>> [row["hidden"] for row in result.rows[1:3]], result.rows[3]["control"]
    (['red', 'red, circle'], True)

    Controls, always: for each number of words, as many random other words of the prompt, which no condition hides, of
    as many tokens where there are such; with a region, the same words in a region of the same shape, moved at random;
    with heads, the same words at as many other heads. A control that a case does not allow is a row with an error.

    Args:
        model: as in `experiment`, and so are the cases and ``how``.
        words: what to hide: a word or phrase, ``"<start>"``, ``"<end>"``, ``"<pad>"``, a token position, several of
            these together, or a dictionary of such choices by name. ``"{colour}"`` is the case's own word.
        where: only there: a mask of booleans over the picture, ``[h, w]``, or a heat map, for where it is above the
            usual threshold; a word, for its heat map in the untouched run; or a region of
            `sdprobe.experiments.measures`. At every grid, as many places as are in proportion to the region's area are
            chosen, those that it covers most. In a video a mask is that of every frame, or has one for each frame, of
            the latents or of the video. None for everywhere.
        sites: only at these sites, as in `sdprobe.only`.
        heads: only at these heads of each site.
        in_steps: only in these steps, as the ``steps`` of `sdprobe.only`; ``steps`` itself is the number of them.
        measures: as in `experiment`; None for `PictureChange`.

    Raises:
        WordNotInPrompt: for a word that a case's prompt does not have.
        ValueError: for a mask that is not ``[h, w]`` or ``[frames, h, w]``, or has no places.
        TypeError: for a mask that is not of booleans.

    Source: Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", section 4.
    """
    if isinstance(where, HeatMap):
        where = where.mask()
    if where is not None and not isinstance(where, str) and not callable(getattr(where, "mask", None)):
        where = checked_mask(where)
    named = words if isinstance(words, Mapping) else {name_of(words): words}
    choices = {name: tuple(several(own)) for name, own in named.items()}
    design = KnockOut(choices, where, sites, None if heads is None else tuple(heads), in_steps)
    if measures is None:
        measures = PictureChange()
    return experiment(model, cases, design, measures, **how)


def several(words: Words) -> list[Word]:
    """Return a word or words as a list."""
    return [words] if isinstance(words, (str, int)) else list(words)


def name_of(words: Words) -> str:
    """Return what to call words in the name of a condition: ``"colour"`` for ``"{colour}"``."""
    return said(several(words)).replace("{", "").replace("}", "")


def said(words: Sequence[Word]) -> str:
    """Return words as a label."""
    return ", ".join(word if isinstance(word, str) else f"token {word}" for word in words)


def in_case(word: Word, case: Case) -> Word:
    """Return a word with the case's own words in place of ``{...}``."""
    return case.fill(word) if isinstance(word, str) else word


def tokens_of_words(prompt: Prompt, words: Sequence[Word]) -> list[int]:
    """Return how many tokens each of the prompt's words has that are among these; of special tokens alone, as of one.

    Raises `WordNotInPrompt`.
    """
    hidden = {position for word in words for position in prompt.positions(word)}
    found = [prompt.positions(word) for word in prompt.words]
    return [len(positions) for positions in found if {*positions} & hidden] or [1]


def other_heads(heads: Sequence[int], count: int, seed: Sequence[int]) -> list[int]:
    """Return as many other heads at random, of those that every site has. Raises ValueError if there are fewer."""
    others = [head for head in range(count) if head not in heads]
    if len(others) < len(set(heads)):
        raise NotInThisCase(
            f"a control hides the words at {len(set(heads))} other heads, and of {count} only {len(others)} are left: "
            f"choose fewer"
        )
    return sorted(np.random.default_rng(list(seed)).permutation(others)[: len(set(heads))].tolist())


def region_of(where: Any, case: Case, runner: CaseRunner) -> Bool[Tensor, "*frames h w"]:
    """Return a region as a mask. Raises ValueError if the case's picture has no such region."""
    if isinstance(where, str):
        return untouched_run(runner).heat_map(case.fill(where)).mask()
    if not callable(getattr(where, "mask", None)):
        return _at_sites(torch.as_tensor(where), runner)  # was looked at by `knock_out`
    run = untouched_run(runner).run
    found: Tensor | None = where.mask(run, run, case)
    if found is None:
        raise NotInThisCase(f"the untouched picture has no {where!r}, so the words cannot be hidden there")
    return _at_sites(found, runner)


def _at_sites(mask: Bool[Tensor, "*frames h w"], runner: CaseRunner) -> Bool[Tensor, "*frames h w"]:
    """Return a mask over every frame of a video as one over the frames of the sites, in which places are counted."""
    if mask.ndim == 2:
        return mask
    frames = max((site.grid[0] for site in untouched_run(runner).sites if site.grid and len(site.grid) == 3), default=0)
    if not frames:
        raise ValueError(f"where= is a mask of {len(mask)} frames, and this model makes images: give one of [h, w]")
    if len(mask) < frames:
        raise ValueError(
            f"where= is a mask of {len(mask)} frames, and attention here has {frames}: give it the frames of the "
            f"video, or these"
        )
    return mask if len(mask) == frames else mask_on_grid(mask, (frames, *mask.shape[1:]))


def checked_mask(where: Any) -> Bool[Tensor, "*frames h w"]:
    """Return a mask that a user gave.

    Raises TypeError for one that is not of booleans, and ValueError for one that is not ``[h, w]``, or
    ``[frames, h, w]`` of a video, with some places.
    """
    mask = torch.as_tensor(where)
    if mask.dtype != torch.bool:
        raise TypeError(f"where is a mask of booleans, a word or a region, not numbers of {mask.dtype}")
    if mask.ndim not in (2, 3) or not mask.any():
        raise ValueError(
            f"where is a mask [h, w], or [frames, h, w] of a video, with some places, not {list(mask.shape)} with "
            f"{int(mask.sum())}"
        )
    return mask


def _raising(error: ValueError) -> Callable[[], Given]:
    def hooks() -> Given:
        raise error

    return hooks
