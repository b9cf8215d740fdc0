"""`Features`: read a module through a sparse autoencoder, and change its features."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.activations.record import ActivationKey, RowLabel
from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.picture_of import picture_of
from sdprobe.core.run import Run
from sdprobe.core.site import Site, is_map
from sdprobe.plot.heatmap import HeatMap
from sdprobe.sae.activation_function import TopK
from sdprobe.sae.feature_record import FeatureActivity, FeatureRecord, SparseActivations
from sdprobe.sae.sparse_autoencoder import SparseAutoencoder

Of = Literal["output", "input", "update"]
Amount = float | Shaped[Tensor, "h w"] | Shaped[np.ndarray, "h w"]
SIDES: Mapping[str, tuple[str, ...]] = {"output": ("output",), "input": ("input",), "update": ("input", "output")}


class Features(Transform):
    """Read modules through a sparse autoencoder (SAE): record its features, and clamp, scale or ablate some of them.

    Only what changes is added: ``x + decode(changed) - decode(read)``. What the autoencoder does not reconstruct passes
    on, and with nothing to change the value is the same object. `sdprobe.only` limits it to rows, steps or sites.

    >>> import sdprobe, torch
    >>> from sdprobe.sae.activation_function import TopK
    >>> W = torch.cat([torch.eye(32), -torch.eye(32)])  # the directions of a module's 32 channels, up and down
    >>> sae = sdprobe.SparseAutoencoder(W.T.contiguous(), torch.zeros(64), W, torch.zeros(32), TopK(6))
    >>> features = sdprobe.Features(sae, "up_blocks.2.attentions.1", ablate=[3])
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[features], steps=3, seed=0, progress=False)
    >>> run[features].heat_map(3, step=2), run[features].at(2).shape
    (HeatMap('feature 3', 16×16), torch.Size([2, 256, 64]))
    >>> strongest = run[features].top(5)
    >>> [activity.mean >= strongest[-1].mean for activity in strongest]
    [True, True, True, True, True]

    Args:
        sae: the autoencoder, or a path that `SparseAutoencoder.load` reads.
        modules: fnmatch patterns on dotted module names.
        of: what is read: ``"output"``, ``"input"``, or ``"update"``, output - input, which is what SDXL-unbox's
            autoencoders of transformer blocks read.
        streams: patterns on the streams of a module with several tensors; None for all.
        clamp: features set to an activation at every place: ``{12: 5.0}``, or a map ``[h, w]`` at the module's grid,
            of torch or numpy.
        scale: features multiplied by a factor, or by a map of factors: ``{12: 2.0}``.
        ablate: features set to 0.
        keep: how many of the strongest features of a place are recorded; None for k of `TopK`, 32 for others.

    The record holds what was read, before the change. In ``run[features]``:

    Attributes:
        record: (in a run) the `FeatureRecord`.

    Raises:
        TypeError: for changes that are not given by the numbers of features, and an amount that is no number or map.
        ValueError: for a number that is no feature's, a feature with two changes, a map of another size than the
            module's grid, and a module of another width than the autoencoder's.

    Source: Templeton et al. 2024, Scaling Monosemanticity (clamping, with the error passed on); Surkov et al. 2024,
    Unpacking SDXL Turbo: Interpreting Text-to-Image Models with Sparse Autoencoders, sections 3 and 4.
    """

    def __init__(
        self,
        sae: SparseAutoencoder | str | Path,
        modules: str | Sequence[str],
        *,
        of: Of = "output",
        streams: str | Sequence[str] | None = None,
        clamp: Mapping[int, Amount] | None = None,
        scale: Mapping[int, Amount] | None = None,
        ablate: Sequence[int] = (),
        keep: int | None = None,
    ) -> None:
        if of not in get_args(Of):
            raise ValueError(f"of is 'output', 'input' or 'update', not {of!r}")
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
            raise ValueError(f"keep must be 1 or more, a whole number, not {keep!r}")
        for name, given in {"clamp": clamp, "scale": scale}.items():
            if not isinstance(given, Mapping | None):
                raise TypeError(f"{name} says the amount of each feature, as in {name}={{3: 2.0}}, and it is {given!r}")
        if isinstance(ablate, str) or not np.iterable(ablate):
            raise TypeError(f"ablate is a list of the numbers of features, as in ablate=[3], not {ablate!r}")
        self.sae, self.modules, self.streams, self.of = sae, patterns(modules), patterns(streams), of
        self.clamp, self.scale, self.ablate, self.keep = clamp, scale, tuple(ablate), keep
        self.sides = SIDES[of]
        self._sae = sae if isinstance(sae, SparseAutoencoder) else SparseAutoencoder.load(sae)
        self._changes: list[tuple[str, int, float | Tensor]] = [
            *(("scale", _number(feature), _amount(factor)) for feature, factor in (scale or {}).items()),
            *(("clamp", _number(feature), _amount(value)) for feature, value in (clamp or {}).items()),
            *(("clamp", _number(feature), 0.0) for feature in self.ablate),
        ]
        for kind, feature, amount in self._changes:
            FeatureRecord(self._sae.features).check(feature)
            refuse_not_finite(f"{kind} of feature {feature}", amount)
        changed = [feature for _, feature, _ in self._changes]
        if twice := sorted({feature for feature in changed if changed.count(feature) > 1}):
            raise ValueError(f"feature {twice[0]} has several changes: give it one of clamp, scale and ablate")

    def start(self, run: Run) -> None:
        self.run, self.record = run, FeatureRecord(self._sae.features)
        self._inputs: dict[tuple[str, str], Tensor] = {}
        self._cut: int | Tensor = 0

    def activation(self, x: Tensor, site: Site) -> Tensor:
        if self.of == "update" and site.side == "input":
            self._inputs[site.name, site.stream] = x
            return x
        read = x if self.of != "update" else x - self._taken(x, site)
        places = _as_places(read, site)
        if places.shape[-1] != self._sae.width:
            raise ValueError(
                f"{site.name} ({site.stream}) is {list(x.shape)}, of width {places.shape[-1]}, and the autoencoder "
                f"reads a width of {self._sae.width}"
            )
        if self._sae.W_enc.device != x.device:
            self._sae = self._sae.to(x.device)
        features = self._sae.encode(places)
        self._keep(features.detach(), site)
        if not self._changes:
            return x
        return (x + _as_shape(self._difference(features, site), x, site)).to(x.dtype)

    def finish(self, run: Run) -> None:
        self._inputs = {}
        self.record.finish()
        if cut := int(self._cut):
            warnings.warn(
                f"{self!r}: more than {self._most} features were active at {cut} places, and the weakest were not "
                f"recorded: give a larger keep=",
                stacklevel=2,
            )

    def records(self) -> HookRecords:
        return self.record.records()

    def restore(self, records: HookRecords, run: Run) -> None:
        self.run, self.record = run, FeatureRecord.restored(records)

    def heat_map(
        self,
        feature: int,
        image: int = 0,
        step: int | None = None,
        *,
        name: str | None = None,
        stream: str | None = None,
        role: str = "cond",
    ) -> HeatMap:
        """Return the activations of a feature over an image; the mean over the steps if none is given.

        Args:
            feature: its number.
            image: the number of the image.
            step: the number of the step.
            name: the module, where several were read.
            stream: the stream, where several were read.
            role: ``"cond"`` for the rows of the prompt, ``"uncond"`` for those of the negative prompt.

        Raises:
            KeyError: for a step, module, image or role that was not read.
            ValueError: for a number that is no feature's, and a module whose positions do not form a grid.
        """
        values = self.record.map_of(feature, image, step, name=name, stream=stream, role=role)
        return HeatMap(values.float(), f"feature {feature}", picture_of(self.run, image))

    def top(
        self,
        n: int = 10,
        image: int | None = None,
        step: int | None = None,
        *,
        name: str | None = None,
        stream: str | None = None,
        role: str = "cond",
    ) -> list[FeatureActivity]:
        """Return the ``n`` features of the largest mean activation; arguments and errors are those of `heat_map`."""
        return self.record.top(n, image, step, name=name, stream=stream, role=role)

    def at(
        self, index: int | None, name: str | None = None, *, stream: str | None = None
    ) -> Float[Tensor, "rows positions features"]:
        """Return the activations of every feature in one step. Raises KeyError for what was not read."""
        return self.record.at(index, name, stream=stream)

    @property
    def _most(self) -> int:
        activation = self._sae.activation
        usual = activation.k if isinstance(activation, TopK) else 32
        return min(self.keep or usual, self._sae.features)

    def _taken(self, x: Tensor, site: Site) -> Tensor:
        found = self._inputs.pop((site.name, site.stream), None)
        if found is None or found.shape != x.shape:
            what = "nothing of that stream" if found is None else f"a tensor {list(found.shape)}"
            raise ValueError(
                f"of='update' reads output - input, and {site.name} gives {site.stream} {list(x.shape)} and takes "
                f"{what}: choose a module that adds to its input, and streams= that it takes and gives"
            )
        return found

    def _keep(self, features: Float[Tensor, "rows positions features"], site: Site) -> None:
        if site.further:
            return  # another hook's own question to the denoiser, at other latents
        if len(features) != len(site.rows):
            raise ValueError(f"{site.name} has {len(features)} entries, and there are {len(site.rows)} rows")
        if not isinstance(self._sae.activation, TopK) or self._most < self._sae.activation.k:
            self._cut = self._cut + ((features > 0).sum(-1) > self._most).sum()
        values, indices = features.topk(self._most, dim=-1)
        rows = tuple(RowLabel(row.image, row.role, row.prompt.text) for row in site.rows)
        read = SparseActivations(CpuCopy(values), CpuCopy(indices, torch.int32), rows, site.grid, site.image)
        self.record.write(site.index, ActivationKey(site.name, self.of, site.stream, site.call), read)

    def _difference(
        self, features: Float[Tensor, "rows positions features"], site: Site
    ) -> Float[Tensor, "rows positions width"]:
        """Return decode(changed) - decode(read): the decoder is linear, so only features that change matter."""
        numbers = [feature for _, feature, _ in self._changes]
        read = features[..., numbers]
        wanted = [
            _changed(read[..., k], kind, amount, site, feature)
            for k, (kind, feature, amount) in enumerate(self._changes)
        ]
        return (torch.stack(wanted, -1) - read) @ self._sae.W_dec[numbers]


def _changed(
    read: Float[Tensor, "rows positions"], kind: str, amount: float | Tensor, site: Site, feature: int
) -> Float[Tensor, "rows positions"]:
    if not isinstance(amount, Tensor):
        return read * amount if kind == "scale" else torch.full_like(read, amount)
    if amount.ndim == 0:
        return _changed(read, kind, amount.item(), site, feature)
    if tuple(amount.shape) != site.grid:
        raise ValueError(
            f"the map for feature {feature} is {list(amount.shape)}, and the grid of {site.name} is "
            f"{list(site.grid) if site.grid else 'unknown'}: HeatMap.resize makes a map of that size"
        )
    changed, own = read.clone(), amount.to(read).flatten()
    changed[:, site.image] = read[:, site.image] * own if kind == "scale" else own.expand(len(read), -1)
    return changed


def _as_places(x: Tensor, site: Site) -> Shaped[Tensor, "rows positions width"]:
    """Return a module's tensor with its width last: from ``[rows, channels, h, w]`` and ``[rows, width]`` too."""
    if is_map(x, site):
        return x.flatten(2).transpose(1, 2)
    return x.unsqueeze(1) if x.ndim == 2 else x.flatten(1, -2)


def _as_shape(places: Shaped[Tensor, "rows positions width"], x: Tensor, site: Site) -> Tensor:
    """Return what `_as_places` made in the shape of its tensor again."""
    return (places.transpose(1, 2) if is_map(x, site) else places).reshape(x.shape)


def _number(feature: Any) -> int:
    """Return the number of a feature. A file holds it as text, and an array as its own kind of integer."""
    try:
        if isinstance(feature, bool):  # one of a mask
            raise TypeError
        return int(feature) if isinstance(feature, str) else operator.index(feature)
    except (TypeError, ValueError):
        raise TypeError(f"a feature is given by its number, a whole one, and not by {feature!r}") from None


def _amount(given: Amount) -> float | Tensor:
    return torch.as_tensor(given) if isinstance(given, np.ndarray) else given
