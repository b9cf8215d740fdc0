"""`Preview`: a small image of every step during the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL.Image import Image
from PIL.Image import fromarray as as_picture
from torch import Tensor

from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.core.hook import Observer
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.core.plain_values import from_plain
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.step import Step
from sdprobe.core.written_values import count, listed, mapping, text

Decoder = Literal["linear", "vae"]
Shown = Literal["latents", "denoised"]
Pictures = CpuCopy | list[Image] | Callable[[], list[Image]]  # the last reads those of a saved run


class Preview(Observer):
    """Record images of predicted x0, and of the noisy latents, at every step.

    ``"linear"`` is fast: one pixel per position of the latents, by a linear map to RGB that is fitted once per model.
    ``"vae"`` is the model's own decoder, which for a large model can take as long as the step itself. Use
    `sdprobe.only` to record some steps only.

    Of a video there is a picture of each frame, video by video, as in ``run.images``: with ``"linear"`` of each latent
    frame, with ``"vae"`` of each frame that it decodes to. `of_image` returns the frames of one video.

    >>> import sdprobe
    >>> preview = sdprobe.Preview()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[preview], steps=4, seed=0, progress=False)
    >>> x0 = run[preview]["denoised"]
    >>> len(x0), x0[3][0].size
    (4, (16, 16))

    Args:
        decoder: ``"linear"`` or ``"vae"``.
        keep: ``"denoised"`` (predicted x0), ``"latents"`` (x_t, divided to the scale of x0), or both.
        show: called in each step with the images of predicted x0, one for each image of the run, or for each frame.

    Attributes:
        indices: (in a run) the numbers of the steps.
        total: (in a run) the number of steps.
        final: (in a run) the images of the final latents, one for each image.
        frames: (in a run) how many pictures of each image there are at a step: 1, or the frames of a video.

        Index the run's copy with a name for a list with an entry per step: a list with one PIL image per image.
    """

    _videos: int | None = None
    """How many videos there are; None in a run of images."""

    def __init__(
        self,
        decoder: Decoder = "linear",
        keep: Sequence[Shown] = ("latents", "denoised"),
        show: Callable[[list[Image]], object] | None = None,
    ) -> None:
        if decoder not in get_args(Decoder):
            raise ValueError(f"there is no decoder {decoder!r}; there are: {', '.join(get_args(Decoder))}")
        if unknown := [name for name in keep if name not in get_args(Shown)]:
            raise ValueError(f"cannot show {unknown}; what can be shown: {', '.join(get_args(Shown))}")
        self.decoder, self.keep, self.show = decoder, tuple(keep), show

    def start(self, run: Run) -> None:
        self.indices: list[int] = []
        self.run = run
        self._kept: dict[str, list[Pictures]] = {name: [] for name in (*self.keep, "final")}

    def noise_pred(self, x: Tensor, step: Step) -> None:
        self.total = step.total
        self.indices.append(step.index)
        if "latents" in self.keep:
            scale = (step.signal**2 + step.noise**2) ** 0.5  # for some schedulers the latents grow with the noise
            self._kept["latents"].append(self._decoded(step.latents / scale))
        if "denoised" in self.keep or self.show is not None:
            x0 = self._decoded(step.denoised(x))
            if self.show is not None:
                self.show(shown := self._received(x0))
            if "denoised" in self.keep:
                self._kept["denoised"].append(x0 if self.show is None else shown)
        for kept in self._kept.values():
            kept[:] = [self._received(own) if isinstance(own, CpuCopy) and own.arrived else own for own in kept]

    def final_latents(self, x: Tensor, run: Run) -> None:
        self._kept["final"].append(self._decoded(x))

    def finish(self, run: Run) -> None:
        for name in self._kept:
            self._all(name)

    def records(self) -> HookRecords:
        places: dict[str, tuple[str, int, int]] = {}
        names: dict[str, list[list[str]]] = {}
        for name in self._kept:
            counts = [len(pictures) for pictures in self._all(name)]
            own = [[(name, i, k) for k in range(count)] for i, count in enumerate(counts)]
            names[name] = [[f"{name} {i}.{k}" for _, i, k in step] for step in own]
            places |= {f"{name} {i}.{k}": (name, i, k) for step in own for _, i, k in step}
        values = {"indices": self.indices, "total": vars(self).get("total"), "pictures": names}
        if self._videos is not None:
            values["videos"] = self._videos
        return HookRecords(values, TensorsByKey(places, self._pixels))

    def restore(self, records: HookRecords, run: Run) -> None:
        values, self.run = records.values, run
        self.indices = [*map(count, listed(values["indices"]))]
        if values["total"] is not None:
            self.total = count(values["total"])
        if (videos := values.get("videos")) is not None:
            if not (own := count(videos)):
                raise ValueError("previews of no video")
            self._videos = own
        self._kept = {}
        if {*(written := mapping(values["pictures"]))} != {*self.keep, "final"}:
            raise ValueError(f"previews of {short_repr([*written])}, where {short_repr(self.keep)} were kept")
        for name, steps in written.items():
            plain = [[{"$image": text(picture)} for picture in listed(step)] for step in listed(steps)]
            self._kept[name] = [partial(from_plain, own, records.tensors) for own in plain]

    @property
    def frames(self) -> int:
        if self._videos is None:
            return 1
        first = next((steps[0] for name in self._kept if (steps := self._all(name))), [])
        return len(first) // self._videos

    def of_image(self, pictures: list[Image], image: int) -> list[Image]:
        """Return those pictures of a step that are of one image: one, or the frames of a video."""
        return pictures[self.frames * image : self.frames * (image + 1)]

    @property
    def final(self) -> list[Image]:
        if not self._kept["final"]:
            raise AttributeError("the run has not come to its end")
        return self._all("final")[-1]

    def __getitem__(self, name: Shown) -> list[list[Image]]:
        if name not in self.keep:
            raise KeyError(f"{name!r} was not kept; kept: {', '.join(self.keep)}")
        return self._all(name)

    def _decoded(self, x: Tensor) -> CpuCopy:
        if x.ndim == 5:
            self._videos = len(x)
        if self.decoder == "linear":
            return CpuCopy(self.run.model.linear_rgb(x))
        model = copy(self.run.model)
        model.settings = self.run.settings  # they say which of the latents a model of videos decodes
        return CpuCopy(model.decode(x, None))

    def _received(self, kept: Pictures) -> list[Image]:
        """Return pictures, which are made of pixels once those are on the CPU."""
        if not isinstance(kept, CpuCopy):
            return kept() if callable(kept) else kept
        shown = kept.value
        if shown.ndim == 5 and self.decoder == "linear":
            shown = shown.movedim(2, 1).flatten(0, 1)  # [videos · frames, 3, h, w]
            return [as_picture((frame * 255).round().byte().movedim(0, -1).numpy()) for frame in shown.float()]
        pictures: list[Image] = self.run.model.pictures(shown)
        return pictures

    def _all(self, name: str) -> list[list[Image]]:
        self._kept[name][:] = received = [self._received(own) for own in self._kept[name]]
        return received

    def _pixels(self, place: tuple[str, int, int]) -> UInt8[Tensor, ...]:
        name, i, k = place
        return torch.from_numpy(np.array(self._received(self._kept[name][i])[k]))
