"""`overlaps`: how far the maps of heads and dependents overlap, relation by relation, over many runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sdprobe.attributions.grammar import Grammar, Pair
from sdprobe.core.data_frame import data_frame
from sdprobe.experiments.bootstrap import Estimate, mean_with_interval
from sdprobe.experiments.result_figure import forest
from sdprobe.experiments.summary import Line, Summary
from sdprobe.plot.table import as_html, as_text

UNRELATED, ALL = "unrelated words", "all relations"
MEASURES = {"iod": "mIoD", "ioh": "mIoH", "iou": "mIoU"}


@dataclass(frozen=True)
class RelationOverlap:
    """The overlaps of one relation, with intervals of 95 % over the images.

    Args:
        relation: such as ``"amod"``; ``"all relations"``; or the control, ``"unrelated words"``.
        pairs: how many pairs there are.
        iod: mean intersection over dependent.
        ioh: mean intersection over head.
        iou: mean intersection over union.
        over_unrelated: by how much the intersection over union is more than that of unrelated words of the same image,
            in the mean.
    """

    relation: str
    pairs: int
    iod: Estimate
    ioh: Estimate
    iou: Estimate
    over_unrelated: Estimate

    @property
    def images(self) -> int:
        """How many images have such a pair."""
        return self.iou.cases


@dataclass(frozen=True, repr=False)
class Overlaps:
    """Overlaps by relation; prints as a table.

    Attributes:
        relations: unrelated words first, then all relations, then each relation, the most frequent first.
    """

    relations: tuple[RelationOverlap, ...]

    def __getitem__(self, relation: str) -> RelationOverlap:
        """Return the overlaps of a relation. Raises KeyError, with the choices, if there is none."""
        for own in self.relations:
            if own.relation == relation:
                return own
        raise KeyError(f"no relation {relation!r}; there are {', '.join(own.relation for own in self.relations)}")

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each relation. Raises ImportError if pandas is not installed."""
        rows = [
            {"relation": own.relation, "pairs": own.pairs, "images": own.images}
            | {
                f"{name}{end}": value
                for name in (*MEASURES, "over_unrelated")
                for end, value in zip(("", "_low", "_high"), getattr(own, name), strict=False)
            }
            for own in self.relations
        ]
        return data_frame({name: [row[name] for row in rows] for name in rows[0]} if rows else {})

    def plot(self, title: str = "") -> Figure:
        """Plot the three means of each relation with their intervals; the control is a grey square."""
        lines = [
            Line(own.relation, shown, getattr(own, name), own.over_unrelated, own.relation == UNRELATED, 0, 0)
            for own in self.relations
            for name, shown in MEASURES.items()
        ]
        return forest(Summary(tuple(lines)), title)

    def __repr__(self) -> str:
        return "\n".join(as_text(self._table()))

    def _repr_html_(self) -> str:
        return as_html(self._table(), "Overlap of heads and dependents, with intervals of 95 %")

    def _table(self) -> list[list[str]]:
        head = ["relation", "pairs", "images", *MEASURES.values(), "IoU above unrelated"]
        return [head, *map(_cells, self.relations)]


def overlaps(grammars: Iterable[Grammar], seed: int = 0) -> Overlaps:
    """Return how far the binarised maps of heads and dependents overlap, relation by relation.

    mIoD, mIoH and mIoU of a relation are means over images of the mean over an image's pairs. Intervals are of a
    bootstrap over images, since the pairs of one image are not independent. The control is of random words of the same
    prompts of which neither is the head of the other: for each image as many pairs as it has related ones, as far as
    there are.

    >>> import torch
    >>> import sdprobe
    >>> from sdprobe.attributions.grammar import Grammar, WordInGrammar
    >>> def word(text, relation, first, head, mask):
    ...     return WordInGrammar(text, "X", relation, first, head, (first,), sdprobe.HeatMap(mask, text))
    >>> left, all_but_one = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    >>> words = (word("red", "amod", 0, 1, left), word("circle", "ROOT", 1, 1, all_but_one))
    >>> prompt = sdprobe.load().read("red circle")
    >>> overlaps([Grammar(prompt, words, {}, size=(1, 4)) for _ in range(2)])["amod"].iod.value
    1.0

    Args:
        grammars: of as many images, by `grammar`.
        seed: of the draw of unrelated words.

    Raises ValueError if there is no pair at all.

    Source: Tang et al. 2023, "What the DAAM" (ACL): mIoD, mIoH and mIoU by relation, beside unrelated pairs. There the
    mean is over pairs.
    """
    each = [(own.pairs(), _drawn(own, np.random.default_rng([seed, k]))) for k, own in enumerate(grammars)]
    found: dict[str, dict[int, list[Pair]]] = {UNRELATED: {}, ALL: {}}
    for k, (related, drawn) in enumerate(each):
        for pairs, name in ((drawn, UNRELATED), (related, ALL)):
            if pairs:
                found[name][k] = list(pairs)
        for pair in related:
            found.setdefault(pair.relation, {}).setdefault(k, []).append(pair)
    if not found[ALL]:
        raise ValueError("there is no pair of a head and its dependent in these grammars")
    counts = {name: sum(map(len, by_image.values())) for name, by_image in found.items()}
    order = [
        UNRELATED,
        ALL,
        *sorted((name for name in found if name not in (UNRELATED, ALL)), key=lambda x: -counts[x]),
    ]
    return Overlaps(tuple(_relation(name, counts[name], found[name], found[UNRELATED]) for name in order))


def _drawn(own: Grammar, rng: np.random.Generator) -> list[Pair]:
    every = own.unrelated
    chosen = rng.permutation(len(every))[: len(own.related)]
    return [own.pair(*every[k]) for k in sorted(chosen)]


def _relation(
    name: str, count: int, by_image: Mapping[int, Sequence[Pair]], unrelated: Mapping[int, Sequence[Pair]]
) -> RelationOverlap:
    means = {measure: _share(np.array([_mean(pairs, measure) for pairs in by_image.values()])) for measure in MEASURES}
    both = [(pairs, unrelated[k]) for k, pairs in by_image.items() if k in unrelated and name != UNRELATED]
    more = np.array([_mean(pairs, "iou") - _mean(others, "iou") for pairs, others in both])
    return RelationOverlap(name, count, **means, over_unrelated=mean_with_interval(more, bounded=True))


def _mean(pairs: Sequence[Pair], measure: str) -> float:
    values = np.array([getattr(pair, measure) for pair in pairs])
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _share(values: np.ndarray) -> Estimate:
    found = mean_with_interval(values, bounded=True)
    return found._replace(low=max(found.low, 0.0)) if found.cases else found


def _cells(own: RelationOverlap) -> list[str]:
    more = "" if own.relation == UNRELATED else str(own.over_unrelated)
    return [own.relation, str(own.pairs), str(own.images), str(own.iod), str(own.ioh), str(own.iou), more]
