"""`LinearProbe`: what a linear readout of activations knows of a picture, module by module and step by step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.record import ActivationKey, ActivationRecord
from sdprobe.core.activations.source import Source, records_of
from sdprobe.core.hook import patterns
from sdprobe.core.module_names import fits
from sdprobe.core.rows import Role
from sdprobe.core.short_repr import short_repr
from sdprobe.observe.fitted_probe import Array, FittedProbe, Kind, Score, accuracy, explained, samples_of
from sdprobe.observe.probe_result import ProbeResult


class LinearProbe:
    """A linear readout that predicts a label of each picture from its activations: logistic or ridge regression.

    Probes of Alain & Bengio (2016), "Understanding intermediate layers using linear classifier probes"; of latent
    diffusion, Chen et al. (2023), "Beyond Surface Statistics", section 3. Pictures are divided into folds. For each
    fold a probe is fitted on the others, with features standardised by the mean and deviation of those, and tried on
    it. So all positions of a picture are on one side: fitting never sees the pictures that it is tried on. The same is
    done with the labels shuffled over the pictures, in every fit; a score says little without it (Hewitt & Liang 2019).

    Several positions of a picture are several samples with the picture's label, read one by one. To read their mean,
    as is usual, keep the mean: ``Activations(..., reduce="mean")``, or ``x.mean((2, 3))``.

    >>> import torch
    >>> x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    >>> colours = ["red" if value > 0 else "blue" for value in x[:, 0] + x[:, 1]]
    >>> fitted = LinearProbe().fit(x, colours)
    >>> fitted.score.low > 0.8, fitted.control.low < fitted.chance
    (True, True)
    >>> [round(value, 1) for value in fitted.direction("red").tolist()]
    [0.7, 0.7, ...]

    Needs scikit-learn: ``pip install "sdprobe[analysis]"``.

    Args:
        kind: ``"logistic"`` for labels of a few kinds, with the accuracy as score; ``"ridge"`` for numbers, with R².
        penalty: the factor of the squared norm of the weights, of standardised features.
        folds: how many parts the pictures are divided into; each label is in as many of them as possible.
        seed: of the folds, the shuffled labels and the bootstrap.

    Raises:
        ValueError: for another kind, less than two folds, a penalty that is not above 0.
    """

    def __init__(self, kind: Kind = "logistic", penalty: float = 1.0, folds: int = 5, seed: int = 0) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"no probe is {kind!r}; the kinds: {', '.join(get_args(Kind))}")
        if folds < 2:
            raise ValueError(f"the pictures are divided into 2 folds or more, not {folds}")
        if not (math.isfinite(penalty) and penalty > 0):
            raise ValueError(f"the penalty is above 0, not {penalty}")
        self.kind, self.penalty, self.folds, self.seed = kind, penalty, folds, seed

    def fit(self, x: Shaped[Tensor, "pictures ..."], labels: Sequence[Any] | Tensor) -> FittedProbe:
        """Fit and score one probe.

        Args:
            x: activations ``[pictures, width]``, ``[pictures, positions, width]`` or ``[pictures, channels, h, w]``.
            labels: one for each picture; None leaves a picture out.

        Raises:
            ImportError: without scikit-learn.
            ValueError: if there is not one label for each picture, if a label has a single picture, if there are fewer
                pictures than folds or fewer labels than two, if labels do not fit the kind.
        """
        given = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        samples = samples_of(x)
        if len(given) != len(samples):
            raise ValueError(
                f"there are {len(given)} labels for {len(samples)} pictures: give one for each picture, not for each "
                f"position, with the pictures on the first axis of the activations"
            )
        labelled = [i for i, label in enumerate(given) if label is not None]
        y, classes = self._numbers([given[i] for i in labelled])
        samples = samples[labelled]
        random = np.random.default_rng(self.seed)
        score = self._score(samples, y, random)
        control = self._score(samples, random.permutation(y), random)
        weights, bias, deviation = self._fit(samples, y)
        return FittedProbe(
            kind=self.kind,
            score=score,
            control=control,
            chance=max(Counter(y.tolist()).values()) / len(y) if classes else 0.0,
            classes=classes,
            weights=torch.from_numpy(weights).float(),
            bias=torch.from_numpy(bias).float(),
            deviation=torch.from_numpy(deviation).float(),
            pictures=len(y),
        )

    def fit_each(
        self,
        records: Source | Sequence[Source],
        labels: Sequence[Any] | Tensor,
        *,
        modules: str | Sequence[str] | None = None,
        steps: int | Collection[int] | None = None,
        role: Role = "cond",
    ) -> ProbeResult:
        """Fit and score a probe for each module and step of recordings.

        >>> import sdprobe
        >>> acts = sdprobe.Activations("up_blocks.2.attentions.?", reduce="mean", rows="cond", steps=[0, 3])
        >>> run = sdprobe.sample(
        ...     sdprobe.load(), ["a red circle", "a blue circle"], images_per_prompt=10, seed=list(range(20)),
        ...     steps=4, guidance_scale=5.0, hooks=[acts], progress=False,
        ... )
        >>> found = LinearProbe().fit_each(run, ["red"] * 10 + ["blue"] * 10, modules="*attentions.1")
        >>> found
        accuracy [95 % interval]  step 0             step 3
        up_blocks.2.attentions.1  ... [...]  ... [...]
        shuffled labels, mean     ...
        chance                    0.50...
        20 pictures
        >>> found["up_blocks.2.attentions.1", 3].direction("red").shape
        torch.Size([32])

        Args:
            records: a run with an `Activations` hook, its record, or the record's folder; or several, with the same
                modules and steps.
            labels: one for each picture, in the order of the records and of their images; None leaves a picture out.
            modules: patterns on the names of modules; None for all that were kept.
            steps: a step's number, or several; None for all that were kept.
            role: which row of each picture is read.

        Raises:
            KeyError: for a step or a tensor that a record has not.
            ValueError: as in `fit`; for a record without exactly one row of the role for each picture; for a pattern
                that no kept module has; for a run without a record.
        """
        held = records_of(records)
        if not held:
            raise ValueError("there are no records to fit probes on")
        asked = patterns(modules)
        keys = [k for k in held[0].keys if asked is None or any(fits(k.name, own) for own in asked)]
        if not keys:
            names = short_repr([key.name for key in held[0].keys])
            raise ValueError(f"no module of the records has a name like {modules!r}; kept: {names}")
        wanted = (steps,) if isinstance(steps, int) else steps
        indices = [index for index in held[0].indices if wanted is None or index in wanted]
        if wanted is not None and (absent := sorted(set(wanted) - set(indices))):
            raise KeyError(f"steps {absent} were not kept; kept: {held[0].indices}")
        fitted: dict[tuple[ActivationKey, int | None], FittedProbe] = {}
        for key in keys:
            for index in indices:
                if key in held[0].forms(index):
                    x = torch.cat([_of_pictures(record, index, key, role) for record in held])
                    fitted[key, index] = self.fit(x, labels)
        return ProbeResult(fitted)

    def _numbers(self, labels: list[Any]) -> tuple[Array, tuple[Any, ...]]:
        """Return labels as numbers, and the classes that they number."""
        if len(labels) < self.folds:
            raise ValueError(f"{len(labels)} pictures with a label cannot be divided into {self.folds} folds")
        if endless := [own for own in labels if _is_number(own) and not math.isfinite(own)]:
            raise ValueError(f"a label is a name or a finite number, not {endless[0]!r}: None leaves a picture out")
        if self.kind == "ridge":
            if wrong := [own for own in labels if not _is_number(own)]:
                raise ValueError(f"a ridge probe predicts numbers, not {wrong[0]!r}: for names, kind='logistic'")
            y = np.array(labels, dtype=float)
            if y.std() == 0:
                raise ValueError(f"all labels are {labels[0]!r}: there is nothing to predict")
            return y, ()
        if wrong := [own for own in labels if _is_number(own) and own != round(own)]:
            raise ValueError(
                f"a logistic probe predicts which label, not the number {wrong[0]!r}: for numbers, kind='ridge'"
            )
        counts = Counter(labels)
        if len(counts) < 2:
            raise ValueError(f"all labels are {labels[0]!r}: there is nothing to predict")
        if single := [own for own, count in counts.items() if count == 1]:
            raise ValueError(
                f"the label {single[0]!r} has a single picture, which cannot be both learned and tried: leave it out "
                f"with None, or join it with another label"
            )
        classes = tuple(sorted(counts, key=lambda own: (type(own).__name__, own)))
        return np.array([classes.index(own) for own in labels]), classes

    def _score(self, samples: Array, y: Array, random: np.random.Generator) -> Score:
        """Return the score on held-out pictures."""
        # In the order of their labels, dealt out to the folds one by one: each fold gets its share of each label.
        order = random.permutation(len(y))
        if self.kind == "logistic":
            order = order[np.argsort(y[order], kind="stable")]
        fold = np.empty(len(y), dtype=int)
        fold[order] = np.arange(len(y)) % self.folds
        found, total = np.empty(len(y)), np.empty(len(y))
        for k in range(self.folds):
            train, test = fold != k, fold == k
            weights, bias, _ = self._fit(samples[train], y[train])
            readout = samples[test] @ weights.T + bias
            if self.kind == "ridge":
                found[test] = np.square(readout[..., 0] - y[test, None]).mean(1)
                total[test] = np.square(y[test] - y[train].mean())
            else:
                read = readout[..., 0] > 0 if len(weights) == 1 else readout.argmax(-1)
                found[test] = (read == y[test, None]).mean(1)
        return accuracy(found) if self.kind == "logistic" else explained(found, total, random)

    def _fit(self, samples: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return weights and bias in the units of the samples, and the deviation of each channel."""
        logistic, ridge = _regressions()
        x, each = samples.reshape(-1, samples.shape[-1]), np.repeat(y, samples.shape[1])
        mean, deviation = x.mean(0), x.std(0)
        deviation[deviation < 1e-9 * np.abs(mean)] = 0  # a constant, up to the rounding of its mean
        scale = np.where(deviation > 0, deviation, 1.0)
        model = logistic(C=1 / self.penalty, max_iter=1000) if self.kind == "logistic" else ridge(alpha=self.penalty)
        model.fit((x - mean) / scale, each)
        weights = np.atleast_2d(model.coef_) / scale
        return weights, np.atleast_1d(model.intercept_) - weights @ mean, deviation

    def __repr__(self) -> str:
        return f"LinearProbe({self.kind!r}, penalty={self.penalty:g}, folds={self.folds}, seed={self.seed})"


def _is_number(label: Any) -> bool:
    return isinstance(label, Real) and not isinstance(label, bool)


def _of_pictures(record: ActivationRecord, index: int | None, key: ActivationKey, role: Role) -> Tensor:
    """Return a record's tensor of one step with its pictures in order."""
    rows = [(row.image, at) for at, row in enumerate(record.rows_at(index, key)) if row.role == role]
    images = [image for image, _ in sorted(rows)]
    if not rows or len(set(images)) != len(images):
        raise ValueError(
            f"a probe reads one row of each picture: of {key} were kept {len(rows)} rows of the role {role!r}, of "
            f"{len(set(images))} pictures"
        )
    return record.at(index, key)[[at for _, at in sorted(rows)]]


def _regressions() -> tuple[Any, Any]:
    """Import when a probe is fitted: scikit-learn is an extra."""
    try:
        from sklearn.linear_model import LogisticRegression, Ridge
    except ImportError as error:
        raise ImportError('a linear probe needs scikit-learn: pip install "sdprobe[analysis]"') from error
    return LogisticRegression, Ridge
