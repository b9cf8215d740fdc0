"""`Patch`: put the activations of another run in the place of this run's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.source import Source, record_of
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.transform.part_of_activation import PartOfActivation
from sdprobe.transform.source_of_activations import record_at, refuse_unrecorded, rows_of_record


class Patch(Transform):
    """Replace activations by those that another run had at the same step, module, side and stream.

    This is activation patching, or interchange intervention: if the patched run shows what the source showed, the patch
    carries it. Rows are matched by the number of their image and by their role; a source of one image is used for every
    image. To patch some steps or rows only, use `sdprobe.only`. Further calls of the denoiser in a step, which other
    hooks make and no record holds, are not patched, unless the patch is given to `Step.predict` itself.

    A run patched into itself stays the same, exactly, if the record has the dtype of the model.

    >>> import torch
    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 5.0, "seed": 0, "progress": False}
    >>> activations = sdprobe.Activations("up_blocks.2.attentions.1")
    >>> blue = sdprobe.sample(model, "a blue circle", hooks=[activations], **settings)
    >>> patch = sdprobe.Patch(blue, "up_blocks.2.attentions.1")
    >>> red = sdprobe.sample(model, "a red circle", hooks=[sdprobe.only(patch, rows="cond")], **settings)
    >>> itself = sdprobe.sample(model, "a blue circle", hooks=[patch], **settings)
    >>> torch.equal(itself.latents, blue.latents)
    True

    Args:
        source: where the activations come from: a `Run` with an `Activations` hook; ``run[activations]`` if it has
            several; an `ActivationRecord`; or the folder of one, from which each step is read when it is needed.
        modules: patterns on dotted module names. All that they match must be in the record.
        streams: patterns on the tensors of a module with several (`Site.stream`); None for all.
        sides: ``"output"`` for what the modules give, ``"input"`` for what they take.
        places: a mask of booleans over the picture, ``[h, w]`` or ``[images, h, w]``; of a heat map
            ``heat.mask(threshold)``. It is resized to each grid: a place is patched if at least half of it is covered.
            None for every position.
        channels: numbers of channels; None for all.
        heads: numbers of attention heads, where the width is heads side by side: ``modules="*.to_out.0"``,
            ``sides=("input",)``; None for all.

    Raises:
        TypeError: for a source that holds no record.
        ValueError: before the run, for a pattern that fits nothing in the record; in the run, for a row or a shape that
            the record does not have, and for places, channels or heads that a module does not have.
        KeyError: in the run, for a step, module, side or stream that is not in the record.

    Source: Vig et al. 2020, "Investigating Gender Bias in Language Models Using Causal Mediation Analysis", section 3;
    Zhang and Nanda 2024, "Towards Best Practices of Activation Patching in Language Models", section 2.
    """

    def __init__(
        self,
        source: Source,
        modules: str | Sequence[str],
        *,
        streams: str | Sequence[str] | None = None,
        sides: str | Sequence[str] = ("output",),
        places: Any = None,
        channels: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
    ) -> None:
        self.source, self.modules = source, patterns(modules)
        self.streams, self.sides = patterns(streams), patterns(sides) or ()
        self.places, self.channels, self.heads = places, channels, heads
        self._part = PartOfActivation(places, channels, heads)

    def start(self, run: Run) -> None:
        self._record = record_of(self.source)
        refuse_unrecorded(self, self._record)

    def activation(self, x: Shaped[Tensor, "rows ..."], site: Site) -> Shaped[Tensor, "rows ..."]:
        record = record_at(self, self.source, site)
        return x if record is None else self._part.put(rows_of_record(record, x, site), x, site)
