"""`Attribution`: a way to attribute the places of a picture to a word, from what hooks recorded in a run."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from jaxtyping import Float
from torch import Tensor

from sdprobe.core.compose import Hooks
from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.limits.row_subset import numbers_in_whole
from sdprobe.core.picture_of import is_of_videos, picture_of
from sdprobe.core.rows import Role
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.plot.heatmap import HeatMap

Record = TypeVar("Record")
Word = str | int
Spelt = TypeVar("Spelt", str, int, Word)


@dataclass(frozen=True)
class WordAsked:
    """Which heat map is asked for.

    Args:
        word: a word or phrase, a special name (``"<start>"``, ``"<end>"``, ``"<pad>"``), or a token position.
        image: the image number.
        occurrence: which occurrence of the word, counted from 0; None for all.
        role: ``"cond"`` or ``"uncond"``; None for the first that was recorded.
        step: this step only.
        layer: this module only.
        head: this head only.
        encoder: only the word's tokens from this text encoder.
    """

    word: Word
    image: int = 0
    occurrence: int | None = None
    role: Role | None = None
    step: int | None = None
    layer: str | None = None
    head: int | None = None
    encoder: str | None = None


PARTS = tuple(field.name for field in fields(WordAsked) if field.name not in ("word", "image"))
"""What a map can be limited to, where its method can tell these apart."""
ASKED = "_asked"
"""Where a run keeps the record that a method was asked through."""


class Attribution(ABC):
    """A way to attribute the places of a picture to a word: what a run must record for it, and how that is a map.

    A method of one's own defines `hooks` and `attribute`. It is registered under the entry-point group
    ``sdprobe.attributions``, or with `sdprobe.attributions.register`; ``heat_map(word, method=...)`` takes its name, a
    pair of its name and its arguments, or the object.

    >>> import sdprobe
    >>> class Last(sdprobe.attributions.Attribution):
    ...     "The mean attention to the word in the last step."
    ...     def hooks(self, words=None):
    ...         return sdprobe.Hooks(sdprobe.AttentionMaps(words, keep="step"))
    ...     def attribute(self, run, asked):
    ...         maps = sdprobe.attributions.record_of(run, sdprobe.AttentionMaps, self)
    ...         return maps.heat_map(asked.word, image=asked.image, step=run.settings.steps - 1).values
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[Last().hooks()], steps=2, seed=0, progress=False
    ... )
    >>> run[sdprobe.AttentionMaps].heat_map("circle", method=Last())
    HeatMap('circle', 16×16)

    Attributes:
        parts: to which of the parts of a run it can be limited, of ``"occurrence"``, ``"role"``, ``"step"``,
            ``"layer"``, ``"head"`` and ``"encoder"``.
        each_word_costs: whether its hooks do as much again for each further word. Then they are best asked for the
            words that are wanted.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    each_word_costs: ClassVar[bool] = False

    @abstractmethod
    def hooks(self, words: Sequence[Word] | None = None) -> Hooks:
        """Return the hooks that record what this method needs.

        Args:
            words: for these words only; None for every word of each prompt.
        """

    @abstractmethod
    def attribute(self, run: Run, asked: WordAsked) -> Float[Tensor, "*frames h w"]:
        """Return the values of a map, usually not negative, at the grid that they were recorded at.

        Those of a video are ``[frames, h, w]``.

        Raises:
            WordNotInPrompt: for a word that is not in the prompt, unless the method is for such words.
            ValueError: where the run has not recorded what is needed (`record_of`), and for what the method cannot do.
        """

    def heat_map(self, run: Run, word: Word, image: int = 0, **parts: Any) -> HeatMap:
        """Return the heat map of a word.

        Args:
            run: a run with the hooks that `hooks` returns.
            word: as in `WordAsked`.
            image: the image number.
            parts: ``step``, ``layer`` and others, as in `WordAsked`.

        Raises ValueError for a part to which this method cannot be limited, for what `attribute` returns and is no map,
        and as `attribute`.
        """
        asked = self.asked(word, image, **parts)
        values = self.attribute(run, asked)
        if not isinstance(values, Tensor) or values.ndim not in (2, 3) or not values.numel():
            axes = "[frames, h, w]" if is_of_videos(run) else "[h, w]"
            raise ValueError(f"the map of {self!r} is a tensor {axes}, not {short_repr(values)}")
        refuse_not_finite(f"the map of {self!r}", values)
        return HeatMap(values, spelt(run, asked), picture_of(run, image))

    def heat_maps(self, run: Run, words: Sequence[Spelt], image: int = 0, **parts: Any) -> dict[Spelt, HeatMap]:
        """Return the heat maps of several words; a method that can make them faster together overrides this."""
        return {word: self.heat_map(run, word, image, **parts) for word in words}

    def asked(self, word: Word, image: int = 0, **parts: Any) -> WordAsked:
        """Return what is asked for. Raises ValueError for a part to which this method cannot be limited."""
        given = {name: part for name, part in parts.items() if part is not None}
        if unknown := [name for name in given if name not in self.parts]:
            those = f"only to {', '.join(self.parts)}" if self.parts else "to no part of a run"
            raise ValueError(f"the method {self!r} cannot be limited to {', '.join(unknown)}; {those}")
        return WordAsked(word, image, **given)


def spelt(run: Run, asked: WordAsked) -> str:
    """Return the word asked for as it is written; of a token position, the token."""
    if isinstance(asked.word, str):
        return asked.word
    recorded: Sequence[Role] = getattr(vars(run).get(ASKED), "roles", ("cond",))
    return run.prompt_of(asked.image, asked.role or recorded[0]).spelt(asked.word)


def record_of(run: Run, kind: type[Record], method: Attribution) -> Record:
    """Return what the one hook of a class recorded in a run, for a method that needs it.

    Raises ValueError where the run has no such hook, saying how to give it one, or several.
    """
    if isinstance(asked := vars(run).get(ASKED), kind):
        return asked
    # Of a limited hook, the one inside has the records.
    lives = [live.inner if getattr(type(live), "counts_its_calls", False) else live for _, live in run.records]
    found = [*{id(live): live for live in lives if isinstance(live, kind)}.values()]  # in a saved run it stands twice
    if len(found) > 1:
        found = [live for live in found if _of_the_same(live, run)] or found
    if len(found) > 1:
        found = _as_given_by(method, found) or found
    if len(found) == 1:
        if not _of_the_same(found[0], run):
            raise ValueError(
                f"{method!r} needs the records of the same images: limit all of its hooks to them, or none"
            )
        return found[0]
    if found:
        raise ValueError(f"{method!r} needs the records of one {kind.__name__}, and this run has {len(found)}")
    raise ValueError(
        f"{method!r} needs the records of {kind.__name__}, which this run does not have: give it the method's hooks, "
        f"as in method = {method!r}, sample(..., hooks=[method.hooks()])"
    )


def _as_given_by(method: Attribution, found: Sequence[Record]) -> list[Record]:
    """Return the first of several records whose hook is as the method itself would have given it, for any words."""
    for said in (repr, _said_without_words):
        wanted = {said(hook) for hook in method.hooks()}
        if alike := [live for live in found if said(live) in wanted]:
            return alike[:1]
    return []


def _said_without_words(hook: Any) -> str:
    plain = copy.copy(hook)
    vars(plain).pop("_said", None)
    if "words" in vars(plain):
        vars(plain)["words"] = None
    return repr(plain)


def run_of(record: Any, run: Run) -> Run:
    """Return a run as a method sees it that is asked of one record: of its class it is the one to use."""
    own = copy.copy(run)
    vars(own)[ASKED] = record
    return own


def _of_the_same(live: Any, run: Run) -> bool:
    """Whether a hook's records are of the images of this run, and not of some of them, or of others."""
    return numbers_in_whole(getattr(live, "run", run)) == numbers_in_whole(run)
