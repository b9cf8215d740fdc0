"""`difference`: the direction in activations from one group of runs to another, as a difference of means."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.activations.record import ActivationKey, ActivationRecord
from sdprobe.core.activations.source import Source, records_of
from sdprobe.core.hook import patterns
from sdprobe.core.module_names import fits
from sdprobe.core.run import Role


class Direction(Mapping[str, Tensor]):
    """One vector ``[width]`` for each module, by its name: a vector for `Steer`.

    Args:
        vectors: by module name.
        explained: by module name, the fraction of the variance of the samples that lies along the vector.

    >>> import torch
    >>> direction = Direction({"mid_block": torch.tensor([3.0, 4.0])}, {"mid_block": 0.25})
    >>> direction
    Direction(mid_block: norm 5, 25 % of the variance)
    >>> round(direction.random(seed=0)["mid_block"].norm().item(), 4)
    5.0
    """

    def __init__(self, vectors: Mapping[str, Float[Tensor, " width"]], explained: Mapping[str, float]) -> None:
        self.explained = MappingProxyType(dict(explained))
        self._vectors = dict(vectors)

    @property
    def norm(self) -> dict[str, float]:
        """The Euclidean norm of each vector."""
        return {name: own.norm().item() for name, own in self._vectors.items()}

    def random(self, seed: int = 0) -> dict[str, Float[Tensor, " width"]]:
        """Return a vector for each module in a random direction, with the norm of its own: a control for steering.

        Directions are uniform on the sphere.
        """
        generator, found = torch.Generator().manual_seed(seed), {}
        for name, own in self._vectors.items():
            drawn = torch.randn(own.shape, generator=generator)
            found[name] = drawn * (own.norm() / drawn.norm())
        return found

    def __getitem__(self, name: str) -> Float[Tensor, " width"]:
        if name not in self._vectors:
            raise KeyError(f"there is no vector for {name!r}; there is one for: {', '.join(self._vectors)}")
        return self._vectors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        said = [f"{name}: norm {size:.3g}, {self.explained[name]:.0%}" for name, size in self.norm.items()]
        return f"Direction({'; '.join(said).replace('%', ' %')} of the variance)"


def difference(
    runs_a: Source | Sequence[Source],
    runs_b: Source | Sequence[Source],
    modules: str | Sequence[str],
    *,
    steps: int | Container[int] | None = None,
    rows: Role | None = "cond",
    stream: str | None = None,
    side: str | None = None,
    call: int | None = None,
) -> Direction:
    """Return the mean activation in some runs minus that in other runs.

    A sample is the vector ``[width]`` of one place in one row and step. The variance is that of the samples of both
    groups together, around their common mean. The records are read step by step, so they may be larger than memory.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "images_per_prompt": 2, "seed": [0, 1], "progress": False}
    >>> module = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
    >>> blue, red = (
    ...     sdprobe.sample(model, f"a {colour} circle", hooks=[sdprobe.Activations(module)], **settings)
    ...     for colour in ("blue", "red")
    ... )
    >>> sdprobe.difference(blue, red, module)[module].shape
    torch.Size([32])

    Args:
        runs_a: one or more runs with an `Activations` hook, or other records of activations, as in `Patch`.
        runs_b: the runs whose mean is subtracted.
        modules: patterns on dotted module names, among those recorded.
        steps: numbers of steps; None for all that were recorded.
        rows: the role of the rows; None for all rows.
        stream: which stream of the modules, if several were recorded.
        side: which side of the modules, if both were recorded.
        call: which call of the modules, if they run several times in a step.

    Raises:
        ValueError: for a pattern that fits no module recorded, for steps or a role without any sample, and for records
            that do not keep the channels, or not the same number of them.
        KeyError: for a module that is not in all records, or has several streams, sides or calls there.

    Source: Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation Addition", section 3 (mean difference);
    Marks and Tegmark 2024, "The Geometry of Truth", section 5.
    """
    groups = [records_of(runs) for runs in (runs_a, runs_b)]
    if not all(groups):
        raise ValueError("a difference of means needs at least one run on each side")
    wanted = (steps,) if isinstance(steps, int) else steps
    vectors, explained = {}, {}
    for name in _names(groups[0][0], patterns(modules) or ()):
        widths = set[int]()

        def samples(
            record: ActivationRecord, name: str = name, widths: set[int] = widths
        ) -> Iterator[Float[Tensor, "samples width"]]:
            for x in _samples(record, record.key_of(name, stream=stream, side=side, call=call), wanted, rows):
                widths.add(x.shape[1])
                if len(widths) > 1:
                    raise ValueError(f"the records of {name!r} have different numbers of channels: {sorted(widths)}")
                yield x

        means, counts = zip(*(_mean(x for own in group for x in samples(own)) for group in groups), strict=True)
        vectors[name] = (means[0] - means[1]).float()
        common = (means[0] * counts[0] + means[1] * counts[1]) / sum(counts)
        unit = (means[0] - means[1]) / (means[0] - means[1]).norm().clamp_min(1e-300)
        along = total = 0.0
        for own in (own for group in groups for own in group):
            for x in samples(own):
                along += ((x - common) @ unit).square().sum().item()
                total += (x - common).square().sum().item()
        explained[name] = along / total if total else 0.0
    return Direction(vectors, explained)


def _names(record: ActivationRecord, asked: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(key.name for key in record.keys))
    for pattern in asked:
        if not any(fits(name, pattern) for name in known):
            raise ValueError(f"the record has no module that fits {pattern!r}; its modules: {', '.join(known)}")
    return [name for name in known if any(fits(name, pattern) for pattern in asked)]


def _samples(
    record: ActivationRecord, key: ActivationKey, steps: Container[int] | None, rows: Role | None
) -> Iterator[Float[Tensor, "samples width"]]:
    """Return the vectors of the chosen rows, step by step. Raises ValueError if there are none."""
    kept = record.indices_of(key)
    chosen = [index for index in kept if steps is None or (index is not None and index in steps)]
    if not chosen:
        raise ValueError(f"none of the steps asked for was recorded at {key}; recorded: {', '.join(map(str, kept))}")
    for index in chosen:
        form, x = record.form_of(index, key), record.at(index, key)
        axis = next((form.axes.index(own) for own in ("channels", "width") if own in form.axes), None)
        if axis is None:
            raise ValueError(f"the record of {key} keeps no channels: its axes are {', '.join(form.axes)}")
        entries = [k for k, label in enumerate(form.rows) if rows in (None, label.role)]
        if not entries:
            roles = ", ".join(dict.fromkeys(label.role for label in form.rows))
            raise ValueError(f"the record of {key} has no rows in the role {rows!r}; it has: {roles}")
        yield x[entries].movedim(axis, -1).flatten(0, -2).double()


def _mean(samples: Iterable[Shaped[Tensor, "samples width"]]) -> tuple[Float[Tensor, " width"], int]:
    """Return the mean of samples that come in parts, and their number."""
    total, count = torch.zeros(()), 0
    for x in samples:
        total, count = total + x.sum(0), count + len(x)
    return total / count, count
