"""`Inpaint`: generate part of an image, and keep the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.transform.picture_latents import opened_picture, picture_latents


class Inpaint(Transform):
    """Keep an image where the mask is black, and generate the part where it is white.

    Before every step, the kept part of the latents is replaced by the image's latents with the noise of this step; the
    noise is always the same, that of the run's seed. After the last step it is replaced by the clean latents, and in
    the decoded image every kept pixel is that of the encoded and decoded input image. With ``image`` and ``strength``
    given to `sdprobe.sample` too, the new part starts from an image instead of pure noise. With a margin around the
    image, this is outpainting.

    >>> import torch
    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> before = sdprobe.sample(model, "a red circle", steps=5, seed=0, progress=False)
    >>> right = torch.zeros(64, 64, dtype=torch.bool)
    >>> right[:, 32:] = True
    >>> inpaint = sdprobe.Inpaint(before.images[0], mask=right)
    >>> run = sdprobe.sample(model, "a blue square", hooks=[inpaint], steps=5, seed=1, progress=False)
    >>> run.images[0].size
    (64, 64)

    Args:
        picture: an image of the run's size: PIL, a file, or a tensor ``[images, 3, height, width]`` in [0, 1]; or clean
            latents ``[images, channels, h, w]``, such as `Run.latents`. One for all images of the run, or one for each.
        mask: what to generate, of the image's size: PIL or a file (white), or booleans ``[height, width]`` or
            ``[images, height, width]`` (True), for example ``heat_map.resize((64, 64)).mask()``. A position of the
            latents is generated if any of its pixels is.

    Raises:
        ValueError: if the image or the mask does not have the run's size, or their number is neither 1 nor that of the
            run.

    Source: Lugmayr et al. 2022, "RePaint", eq. 8, without its resampling; Avrahami et al. 2023, "Blended Latent
    Diffusion", algorithm 1.
    """

    def __init__(self, picture: Any, mask: Any) -> None:
        self.picture, self.mask = opened_picture(picture), opened_picture(mask)

    def start(self, run: Run) -> None:
        size, (h, w) = (run.settings.height, run.settings.width), run.model.latent_size(run.settings)
        self._noise: Tensor | None = None
        device = run.model.device
        self._new = _booleans(self.mask).to(device)
        self._x0 = picture_latents(self.picture, run.model, (h, w)).to(device)
        factor = size[0] // h
        for name, values, own in (
            ("mask", self._new, tuple(self._new.shape[-2:])),
            ("picture", self._x0, (self._x0.shape[-2] * factor, self._x0.shape[-1] * factor)),
        ):
            if own != size:
                raise ValueError(f"the {name} is {own[0]}×{own[1]} px, but the run's are {size[0]}×{size[1]} px")
            if len(values) not in (1, run.settings.images):
                raise ValueError(f"{len(values)} {name}s for {run.settings.images} images: give one, or one for each")
        self._places = F.adaptive_max_pool2d(self._new.float(), (h, w)) > 0

    def latents(self, x: Tensor, step: Step) -> Tensor:
        if self._noise is None:
            self._noise = step.run.model.noise_like(x, step.run.seed)
        kept = step.signal * self._x0.to(x) + step.noise * self._noise
        return torch.where(self._places.to(x.device), x, kept)

    def final_latents(self, x: Tensor, run: Run) -> Tensor:
        return torch.where(self._places.to(x.device), x, self._x0.to(x))

    def image(self, x: Tensor, run: Run) -> Tensor:
        assert run.latents is not None  # the loop has ended
        kept = run.model.decode(self._x0.to(run.latents), None)  # the decoder mixes new latents into kept pixels
        return torch.where(self._new.to(x.device), x, kept)


def _booleans(mask: Any) -> Bool[Tensor, "images 1 height width"]:
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L")) >= 128
    values = torch.as_tensor(mask)
    if values.dtype != torch.bool or values.ndim not in (2, 3):
        raise ValueError(
            f"a mask is a picture, or booleans [height, width] or [images, height, width], not {values.dtype} "
            f"{list(values.shape)}"
        )
    return values.reshape(-1, 1, *values.shape[-2:])
