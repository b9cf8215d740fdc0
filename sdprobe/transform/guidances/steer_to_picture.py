"""`SteerToPicture`: guide every step towards a given picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.transform.guidances.guidance import Guidance, Scale
from sdprobe.transform.picture_latents import opened_picture, picture_latents


class SteerToPicture(Transform):
    """Move the prediction of every step towards the one that leads straight to a given picture.

    This is the controller of RF-Inversion. In a flow, the velocity v becomes v + eta · (v_picture − v), where
    v_picture = (x − x0) / σ goes from the latents straight to the picture's x0. The same is done for noise and other
    predictions; in each case, predicted x0 becomes x0 + eta · (x0_picture − x0), before the scheduler clips it.

    To steer in the first steps only, which leaves the prompt the rest, use `sdprobe.only`. Inversion by
    ``method="rf-inversion"`` does this.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "seed": 0, "progress": False}
    >>> picture = sdprobe.sample(model, "a blue square", **settings | {"seed": 1}).images[0]
    >>> runs = [
    ...     sdprobe.sample(model, "a red circle", hooks=[sdprobe.SteerToPicture(picture, eta)], **settings)
    ...     for eta in (0.0, 0.3, 0.9)
    ... ]
    >>> far, near, nearest = (float(sdprobe.psnr(run.images, [picture])) for run in runs)
    >>> far < near < nearest
    True

    Args:
        picture: an image of the run's size: PIL, a file, or a tensor ``[images, 3, height, width]`` in [0, 1]; or clean
            latents ``[images, channels, h, w]``. One for all images of the run, or one for each.
        eta: from 0, which changes nothing, exactly, to 1, which leads to the picture whatever the prompt says. One
            number, one for each call of the denoiser, or a function of the `Step`.

    Raises:
        ValueError: for an eta outside 0 to 1; in a run, for a picture of another size, latents of another number of
            channels, a number of pictures that is neither 1 nor that of the images, and if the number of values of eta
            is not that of the steps.

    Source: Rout et al. 2024, "Semantic Image Inversion and Editing using Rectified Stochastic Differential Equations",
    algorithm 2. There the model is a flow, and eta is constant up to a stopping time.
    """

    def __init__(self, picture: Any, eta: Scale = 0.9) -> None:
        self.picture, self.eta = opened_picture(picture), Guidance(eta).scale
        if not callable(self.eta):
            for number in self.eta if isinstance(self.eta, tuple) else (self.eta,):
                _refuse_outside(number)

    def start(self, run: Run) -> None:
        grid = run.model.latent_size(run.settings)
        self._x0 = picture_latents(self.picture, run.model, grid).to(run.model.device)
        if tuple(self._x0.shape[-2:]) != tuple(grid):
            raise ValueError(
                f"the picture's latents are {'×'.join(map(str, self._x0.shape[-2:]))}, but the run's are "
                f"{'×'.join(map(str, grid))}: give a picture of {run.settings.height}×{run.settings.width} px"
            )
        if self._x0.shape[1] != run.model.channels:
            raise ValueError(
                f"latents of {self._x0.shape[1]} channels, but this model's have {run.model.channels}; of a picture, "
                f"sdprobe.encode gives them"
            )
        if len(self._x0) not in (1, run.settings.images):
            raise ValueError(f"{len(self._x0)} pictures for {run.settings.images} images: give one, or one for each")

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        _refuse_outside(eta := Guidance(self.eta).at(step))
        if not eta or not step.noise:  # latents without noise are the picture already
            return x
        straight = step.output_for(self._x0.to(x).expand_as(x), step.latents.to(x))
        steered: Tensor = torch.lerp(x, straight.to(x), eta)
        return steered


def _refuse_outside(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta lies between 0, which changes nothing, and 1, which is the picture, not at {eta}")
