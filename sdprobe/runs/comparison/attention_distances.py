"""How far the attention of two runs is apart: to each word of both prompts, at each step and site that both kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.runs.comparison.distances import Distance, cosine, map_distance, rounding_limit, verdict_of
from sdprobe.runs.comparison.other_records import records_attention
from sdprobe.runs.comparison.recorded_attention import Recorded, Summed, attention_of
from sdprobe.runs.comparison.recorded_values import dtype_of_run
from sdprobe.runs.comparison.where import Where

RECORD = "AttentionMaps(keep=('step', 'layer'))"


def attention_distances(a: Run, b: Run, images: range, by_steps: bool, notes: list[str]) -> Iterator[Distance]:
    """Return the distances of what every two `AttentionMaps` and `AttentionRecorder` of both runs kept.

    Args:
        a: a run.
        b: another run.
        images: the images of both.
        by_steps: whether steps of the same number are compared; else sums over all steps, of which none are.
        notes: the notes so far, to which it adds what was left out.
    """
    seen: set[tuple[str, int | None, str, int, str]] = set()
    unlike: dict[Where, str] = {}
    if not by_steps:
        return
    for first, second in _pairs(attention_of(a), attention_of(b)):
        apart = first.apart & second.apart
        here, there = first.places(apart), second.places(apart)
        for where in here:
            if where not in there:
                continue
            x, y = first.summed(where, here[where]), second.summed(where, there[where])  # type: ignore[arg-type]
            if x.count != y.count:
                unlike[where] = f"summed over {x.count} calls in a and {y.count} in b"
                continue
            limit = rounding_limit(x.dtype, y.dtype, dtype_of_run(a), dtype_of_run(b))
            for image in (i for i in images if i in x.images and i in y.images):
                for word, p, q in _maps(x, y, image):
                    if (place := (where.role, where.step, where.site, image, word)) not in seen:
                        seen.add(place)
                        yield _compared(where, image, word, p, q, limit)
    compared = {(role, step, site) for role, step, site, _, _ in seen}
    for where, why in unlike.items():
        if (where.role, where.step, where.site) not in compared:
            notes.append(f"attention of {where.site} left out: {why}; record both runs with {RECORD}")


def _pairs(first: list[Recorded], second: list[Recorded]) -> list[tuple[Recorded, Recorded]]:
    """Return each of one with each of the other; first those that were recorded by hooks of one kind."""
    return sorted(product(first, second), key=lambda pair: type(pair[0]) is not type(pair[1]))


def notes_on_attention(a: Run, b: Run, compared: bool) -> list[str]:
    """Return what cannot be said of the attention of two runs, and how to record it.

    Args:
        a: a run.
        b: another run.
        compared: whether any attention of both was compared.
    """
    first, second = attention_of(a), attention_of(b)
    if not first or not second:
        by = "a only" if first else "b only" if second else "neither"
        what = "maps of attention" if records_attention(a) or records_attention(b) else "attention"
        return [f"{what}: recorded by {by}; record both runs with {RECORD}"]
    apart = frozenset[str]().union(*(x.apart & y.apart for x in first for y in second))
    notes = []
    if missing := [name for name in ("step", "layer") if name not in apart]:
        said = " and ".join(f"{name}s" for name in missing)
        notes.append(f"attention: {said} not kept apart by both; record both runs with {RECORD}")
    elif not _shares_places(first, second):
        notes.append(f"attention: recorded by both, but of other steps, sites or roles; record both runs with {RECORD}")
    elif not compared:
        notes.append(f"attention: recorded by both, but of other images or words; record both runs with {RECORD}")
    return notes


def _shares_places(first: list[Recorded], second: list[Recorded]) -> bool:
    pairs = [(x, y, x.apart & y.apart) for x in first for y in second]
    return any(set(x.places(apart)) & set(y.places(apart)) for x, y, apart in pairs)


def _maps(x: Summed, y: Summed, image: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Return the two maps of all recorded tokens together, and of each word of both."""
    whole, other = x.whole(image), y.whole(image)
    if whole is not None and other is not None and whole[0] == other[0]:
        yield "", whole[1], other[1]
    there = y.words(image)
    for word in x.words(image):
        if word in there:
            yield word, x.map_of(word, image), y.map_of(word, image)


def _compared(where: Where, image: int, word: str, p: Tensor, q: Tensor, limit: float) -> Distance:
    distance = map_distance(p, q)
    # Rounding is measured against all attention, which at every position sums to 1: a part of it that is small, such as
    # that to one word, has no less rounding than the whole.
    share = float((p.sum() + q.sum()) / 2) / len(p)
    limit = min(1.0, limit / share) if share > 0 else limit
    verdict = verdict_of(distance, limit)
    return Distance(
        "attention", where.step, where.site, image, where.role, word, distance, cosine(p, q), verdict, limit
    )
