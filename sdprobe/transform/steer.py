"""`Steer`: add a vector to the activations of a module."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.limits.limited_hook import Limit, Rows, Steps
from sdprobe.core.limits.row_subset import entries_of, rows_of_run, with_entries
from sdprobe.core.rows import as_slice
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site
from sdprobe.transform.part_of_activation import PartOfActivation, rows_in, said_of, width_axis


class Steer(Transform):
    """Add ``scale`` times a vector to an activation, at every position.

    >>> import torch
    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 3, "seed": 0, "progress": False}
    >>> vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    >>> steered, off = (sdprobe.Steer(vector, "up_blocks.2.attentions.1*attn2", scale) for scale in (4.0, 0.0))
    >>> plain = sdprobe.sample(model, "a red circle", **settings)
    >>> runs = [sdprobe.sample(model, "a red circle", hooks=[hook], **settings) for hook in (steered, off)]
    >>> [torch.equal(run.latents, plain.latents) for run in runs]
    [False, True]

    Args:
        vector: ``[width]``, the number of channels of the activation; or one for each module by its name, such as a
            `Direction` of `difference`.
        modules: patterns on dotted module names.
        scale: the factor of the vector. 0 changes nothing, exactly.
        steps: numbers of steps, or a function of the `Step`, as in `sdprobe.only`; None for all.
        rows: a role, numbers of images, or a function of the `Row`, as in `sdprobe.only`; None for all. By default only
            rows of the prompt are changed, so that guidance increases the change.
        places: a mask of booleans over the picture, ``[h, w]`` or ``[images, h, w]``; None for every position.
        streams: patterns on the tensors of a module with several (`Site.stream`); None for all.
        sides: ``"output"`` for what the modules give, ``"input"`` for what they take.

    Raises:
        TypeError: for steps or rows that are neither numbers nor a function.
        ValueError: for a text as rows that is no role; in a run, for a vector whose width is not that of the
            activation, for a module without a vector, and for rows that the run does not have. Steps that are none of
            the run's give a warning.

    Source: Turner et al. 2023, "Activation Addition: Steering Language Models Without Optimization", section 3. There
    the vector is added to the residual stream at the positions of a prompt; here, at all positions.
    """

    def __init__(
        self,
        vector: Shaped[Tensor, " width"] | Mapping[str, Shaped[Tensor, " width"]],
        modules: str | Sequence[str],
        scale: float = 1.0,
        *,
        steps: int | Steps | None = None,
        rows: Rows | None = "cond",
        places: Any = None,
        streams: str | Sequence[str] | None = None,
        sides: str | Sequence[str] = ("output",),
    ) -> None:
        self.vector, self.modules, self.scale = vector, patterns(modules), scale
        self.steps, self.rows, self.places = steps, rows, places
        self.streams, self.sides = patterns(streams), patterns(sides) or ()
        self._part = PartOfActivation(places)
        self._limit = Limit.of(steps=steps, rows=rows)
        refuse_not_finite("scale", scale)
        for name, own in vector.items() if isinstance(vector, Mapping) else [("the vector", vector)]:
            if not isinstance(own, Tensor) or own.ndim != 1:
                raise ValueError(f"{name} is a tensor [width], not {short_repr(own)}")
            refuse_not_finite(name, own)

    def start(self, run: Run) -> None:
        rows = rows_of_run(run)
        if not any(map(self._limit.includes_row, rows)):
            roles = ", ".join(sorted({row.role for row in rows}))
            raise ValueError(
                f"{self!r} would never act: its rows are none of this run's {run.settings.images} images, counted "
                f"from 0, with the roles {roles}"
            )

        self._acted = not self.scale

    def finish(self, run: Run) -> None:
        if not self._acted and run.latents is not None:
            warnings.warn(f"{self!r} never acted in this run: its steps or rows were none of the run's", stacklevel=2)

    def activation(self, x: Shaped[Tensor, "rows ..."], site: Site) -> Shaped[Tensor, "rows ..."]:
        if not self.scale or not self._limit.includes_step_of(site):
            return x
        if self._limit.rows is None:
            return self._moved(x, site)
        count = len(rows_in(x, site))
        entries = entries_of(site, self._limit.includes_row)
        if not entries:
            return x
        moved = self._moved(x, site)
        return moved if len(entries) == count else with_entries(x, entries, moved[as_slice(entries)])

    def _moved(self, x: Tensor, site: Site) -> Tensor:
        if "_acted" in vars(self):  # in a further call, a hook is as the caller made it
            self._acted = True
        return self._part.put(x + self.scale * self._fitting(x, site), x, site)

    def _fitting(self, x: Tensor, site: Site) -> Float[Tensor, "#rows ..."]:
        """Return the vector in the shape that broadcasts to the activation."""
        vector = self.vector
        if isinstance(vector, Mapping):
            if site.name not in vector:
                raise ValueError(
                    f"{self!r} has no vector for {site.name}; it has one for: {', '.join(vector)}. Name only these in "
                    f"modules"
                )
            vector = vector[site.name]
        axis = width_axis(x, site)
        if len(vector) != x.shape[axis]:
            raise ValueError(
                f"the vector is {len(vector)} wide, and {said_of(site)} is {x.shape[axis]} wide (its shape: "
                f"{list(x.shape)})"
            )
        return vector.to(x).view([-1 if own == axis else 1 for own in range(x.ndim)])
