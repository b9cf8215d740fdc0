"""`compare`: where two runs part, from what both recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.runs.comparison.attention_distances import attention_distances, notes_on_attention
from sdprobe.runs.comparison.compared_pictures import pictures_in, shown_of, why_not_subtracted
from sdprobe.runs.comparison.compared_settings import compared_settings, images_apart, steps_apart
from sdprobe.runs.comparison.comparison import Comparison, SharedWords
from sdprobe.runs.comparison.distances import (
    Distance,
    cosine,
    picture_distance,
    relative_distance,
    rounding_limit,
    statistics_distance,
    verdict_of,
)
from sdprobe.runs.comparison.order_of_sites import order_of_sites
from sdprobe.runs.comparison.other_records import notes_on_others
from sdprobe.runs.comparison.parting import loop_order
from sdprobe.runs.comparison.recorded_steps import recorded_steps
from sdprobe.runs.comparison.recorded_values import (
    Kind,
    RecordedActivations,
    RecordedLatents,
    RecordedStatistics,
    dtype_of_run,
)

NAMES = {"latents": "latents", "noise_pred": "noise", "denoised": "predicted x0"}
RECORD = "LatentRecorder(keep=('latents', 'noise_pred', 'denoised'))"


def compare(a: Run, b: Run) -> Comparison:
    """Compare two runs: where they part, and how far they are apart in all that both recorded.

    >>> import sdprobe
    >>> hooks = [
    ...     sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised")),
    ...     sdprobe.AttentionMaps(keep=("step", "layer")),
    ... ]
    >>> late = sdprobe.only(sdprobe.ReplaceToken("red", with_="blue"), steps=range(3, 6))
    >>> a, b = (
    ...     sdprobe.sample(sdprobe.load(), "a red circle", hooks=own, steps=6, seed=0, progress=False)
    ...     for own in (hooks, [late, *hooks])
    ... )
    >>> comparison = sdprobe.compare(a, b)
    >>> comparison.parted
    'part at step 3, at attention of down_blocks.0...attn2 (distance ...); before it they are equal to the last bit'
    >>> comparison.settings
    {'transforms': ('none', "only(ReplaceToken('red', 'blue'), steps=range(3, 6))")}
    >>> sdprobe.compare(a, a).parted
    'equal to the last bit in all that both recorded: latents, attention, noise_pred, denoised, final latents, picture'

    Compared are: what `LatentRecorder`, `AttentionMaps`, `AttentionRecorder`, `Activations` and `Statistics` of both
    runs kept of the same steps and images, the final latents, and the pictures, of videos all their frames; what other
    observers recorded is named. Images and steps are compared by their numbers, also in resumed runs, and where a hook
    was limited to some rows. The runs may be live, unpickled or opened.

    What a hook records at a point is the value after all transforms there. x_t that a transform changes at the point
    ``sample`` is first seen in the latents of the next step.

    **Distances.** For latents, noise, predicted x0, activations, final latents and pictures, of each image: the root
    mean square of ``b - a``, divided by that of ``a``. With statistics alone it is the least that this can be. For
    attention, at each site: the sum of ``|p - q|`` over all positions, divided by the sum of ``p + q``, where p and q
    are the mean attention to a word in a and b; and the same for all recorded tokens together. Where the sums of p and
    q are the same, as over all tokens in cross-attention, it is the total variation distance of the maps, each divided
    by its sum.

    **Rounding.** Two values are equal if every bit is. A difference is called rounding if the distance is at most 32
    times the eps of float32 (3.8e-6), or 8 times that of float16 (7.8e-3) or bfloat16 (6.2e-2): of the coarser one, of
    the dtype that was recorded and that of the runs' latents. For a part of all attention at a site,
    such as that to one word, this is relative to all of it: what is small there is rounded no less. Of pictures it is
    at most one of 255 levels in each number.

    **Where they part.** Rounding can grow in the steps that follow. So two runs part at the first point at which a
    distance is more than rounding, and more than 10 times all distances in the steps before and all rounding before it
    in its own step. Where rounding grows without such a jump, this is said. Within a step the order is that of the
    loop: latents, activations and attention as the network passes them, noise, predicted x0. Of attention, words decide
    only where that to all tokens together was not recorded by both.

    **Steps.** Step k of one run is compared with step k of the other if both call the denoiser equally often, also
    under other schedulers: a note says that noise level and scale of x_t can be others. Otherwise only final latents
    and pictures are compared.

    Args:
        a: a run.
        b: another run. Distances of values are relative to the size of those of ``a``.

    Returns:
        A `Comparison`: the point at which they part (``parted``), settings that differ, a table of all distances, a
        figure, and notes on what was left out, and on what to record.

    Raises:
        TypeError: for something that is not a run.
    """
    for own in (a, b):
        if not isinstance(own, Run):
            raise TypeError(f"compare takes two runs, such as those of sdprobe.sample, not {own!r}")
    notes: list[str] = []
    images = images_apart(a, b, notes)
    latents = RecordedLatents(a), RecordedLatents(b)
    values: list[Distance] = []
    if by_steps := steps_apart(a, b, recorded_steps(a), recorded_steps(b), notes):
        values += _latents(a, b, latents, images, notes)
    values += (attention := [*attention_distances(a, b, images, by_steps, notes)])
    notes += notes_on_attention(a, b, bool(attention)) if by_steps else []
    values += _activations(a, b, images, by_steps, notes)
    notes += notes_on_others(a, b)
    values += _final_latents(a, b, images, notes)
    values += _pictures(a, b, images, notes)
    sites = order_of_sites((a, b))
    return Comparison(
        runs=(repr(a), repr(b)),
        settings=compared_settings(a, b),
        table=tuple(sorted(values, key=partial(loop_order, sites=sites))),
        sites=sites,
        words=tuple(SharedWords.of(a.prompt_of(image), b.prompt_of(image)) for image in images),
        pictures=tuple((shown_of(a, image), shown_of(b, image)) for image in images),
        notes=tuple(dict.fromkeys(notes)),
    )


def _compared(
    quantity: str,
    x: Tensor,
    y: Tensor,
    limit: float,
    image: int,
    step: int | None = None,
    site: str = "",
    role: str = "",
) -> Distance:
    distance = relative_distance(x, y)
    return Distance(quantity, step, site, image, role, "", distance, cosine(x, y), verdict_of(distance, limit), limit)


def _latents(
    a: Run, b: Run, recorded: tuple[RecordedLatents, RecordedLatents], images: range, notes: list[str]
) -> Iterator[Distance]:
    """What both recorded of latents, noise and predicted x0; where this is only statistics, these."""
    found: dict[str, set[int]] = {name: set() for name in NAMES}
    alone: dict[str, tuple[set[int], set[int]]] = {name: (set(), set()) for name in NAMES}
    for index in sorted({*recorded[0].indices, *recorded[1].indices}):
        first, second = (own.at(index) if index in own.indices else {} for own in recorded)
        for name in NAMES:
            of_a, of_b = first.get(name, {}), second.get(name, {})
            for side, own, other in ((0, of_a, of_b), (1, of_b, of_a)):
                if own and not own.keys() & other.keys():
                    alone[name][side].add(index)
            for image in (i for i in images if i in of_a and i in of_b):
                x, y = of_a[image], of_b[image]
                found[name].add(index)
                if x.shape == y.shape:
                    limit = rounding_limit(x.dtype, y.dtype, dtype_of_run(a), dtype_of_run(b))
                    yield _compared(name, x, y, limit, image, index)
                else:
                    notes.append(f"{NAMES[name]}: of other sizes, {_size(x)} and {_size(y)}, so not subtracted")
    statistics = RecordedStatistics(a), RecordedStatistics(b)
    for name, said in NAMES.items():
        indices = {*statistics[0].indices} & {*statistics[1].indices} - found[name]
        if indices and _sizes(a) != _sizes(b):
            notes.append(f"{said}: statistics of other sizes, so they tell no distance")
            continue
        for index in sorted(indices):
            limit = rounding_limit(dtype_of_run(a), dtype_of_run(b))
            moments = tuple(own.at(name, index) for own in statistics)
            for image in (i for i in images if i in moments[0] and i in moments[1]):
                distance = statistics_distance(moments[0][image], moments[1][image])
                verdict = verdict_of(distance, limit)
                yield Distance(f"{name} (statistics)", index, "", image, "", "", distance, float("nan"), verdict, limit)
        notes += _notes_on(said, bool(found[name]), bool(indices), alone[name])


def _notes_on(said: str, found: bool, statistics: bool, alone: tuple[set[int], set[int]]) -> Iterator[str]:
    for side, own in zip("ab", alone, strict=True):
        if own and found:
            yield f"{said}: {_steps(own)} recorded by {side} only"
    if statistics:
        yield (
            f"{said}: compared by their statistics alone where the values were not recorded by both, which gives the "
            f"least distance only; record both runs with {RECORD}"
        )
    elif not found:
        who = [side for side, own in zip("ab", alone, strict=True) if own]
        by = "neither" if not who else f"{who[0]} only" if len(who) == 1 else "both, but of other steps or images"
        yield f"{said}: recorded by {by}; record both runs with {RECORD}"


def _activations(a: Run, b: Run, images: range, by_steps: bool, notes: list[str]) -> Iterator[Distance]:
    first, second = RecordedActivations(a), RecordedActivations(b)
    for kind in dict.fromkeys([*first.kinds, *second.kinds]):
        if kind not in first.kinds or kind not in second.kinds:
            side = "a" if kind in first.kinds else "b"
            notes.append(f"activation of {kind.key}: recorded by {side} only, or by the other otherwise reduced")
            continue
        here, there = first.kinds[kind], second.kinds[kind]
        for side, own, other in (("a", here, there), ("b", there, here)):
            if left := [index for index in own if index not in other]:
                notes.append(f"activation of {kind.key}: {_steps(left)} recorded by {side} only")
        shared = [index for index in here if index in there and (by_steps or index is None)]
        for index in shared:
            yield from _activation(a, b, first, second, kind, index, images, notes)
    if not (first.kinds or second.kinds):
        notes.append("activations: recorded by neither; record both runs with Activations([...]) of the same modules")


def _activation(
    a: Run,
    b: Run,
    first: RecordedActivations,
    second: RecordedActivations,
    kind: Kind,
    index: int | None,
    images: range,
    notes: list[str],
) -> Iterator[Distance]:
    x, y = first.at(kind, index), second.at(kind, index)
    for image, role in x:
        if image in images and (image, role) in y:
            own, other = x[image, role], y[image, role]
            if own.shape != other.shape:
                notes.append(f"activation of {kind.key}: of other shapes, {_size(own)} and {_size(other)}")
                continue
            limit = rounding_limit(own.dtype, other.dtype, dtype_of_run(a), dtype_of_run(b))
            yield _compared("activation", own, other, limit, image, index, str(kind.key), role)


def _final_latents(a: Run, b: Run, images: range, notes: list[str]) -> Iterator[Distance]:
    if a.latents is None or b.latents is None:
        notes.append("final latents: a run that has not come to its end has none")
        return
    for image in images:
        x, y = a.latents[image], b.latents[image]
        if x.shape == y.shape:
            yield _compared("final latents", x, y, rounding_limit(x.dtype, y.dtype), image)
        else:
            notes.append(f"final latents: of other sizes, {_size(x)} and {_size(y)}, so not subtracted")


def _pictures(a: Run, b: Run, images: range, notes: list[str]) -> Iterator[Distance]:
    for image in images:
        x, y = shown_of(a, image), shown_of(b, image)
        if why := why_not_subtracted(x, y):
            notes.append(f"pictures: {why}")
        else:
            distance, alike, verdict = picture_distance(pictures_in(x), pictures_in(y))
            yield Distance("picture", None, "", image, "", "", distance, alike, verdict, 1 / 255)


def _sizes(run: Run) -> tuple[int | None, ...]:
    return run.settings.frames, run.settings.height, run.settings.width


def _size(x: Tensor) -> str:
    return "×".join(map(str, x.shape))


def _steps(indices: Iterable[int | None]) -> str:
    """Return numbers of steps in words, ranges as such."""
    numbers = sorted(index for index in indices if index is not None)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    said = [f"{first} to {last}" if last > first else str(first) for first, last in runs]
    parts = [f"step{'s' * (len(numbers) != 1)} {', '.join(said)}"] if said else []
    return " and ".join([*parts, *["what is outside the steps"] * any(index is None for index in indices)])
