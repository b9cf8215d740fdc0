"""`PerceptualDistance`: how far the untouched picture is in the features of a network, by LPIPS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.experiments.measures.frames_of import frames_of

Backbone = Literal["alex", "vgg", "squeeze"]
Network = Callable[[Float[Tensor, "1 3 H W"], Float[Tensor, "1 3 H W"]], Tensor]


@dataclass(frozen=True)
class PerceptualDistance:
    """The learned perceptual distance (LPIPS) to the untouched picture: 0 for the same picture.

    Of a video it is the mean over its frames.

    It is computed by the package ``lpips``, which is no part of any extra: it needs torchvision, and downloads the
    weights of the backbone when it is first used.

    >>> PerceptualDistance().name, PerceptualDistance("vgg").name
    ('perceptual distance (alex)', 'perceptual distance (vgg)')

    Args:
        backbone: the network whose features are compared: ``"alex"``, ``"vgg"`` or ``"squeeze"``.

    Raises:
        ImportError: when it measures, if lpips is not installed.
        ValueError: for another backbone.

    Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", eq. 1.
    """

    backbone: Backbone = "alex"

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone):
            raise ValueError(f"a backbone is {', '.join(map(repr, get_args(Backbone)))}, not {self.backbone!r}")

    @property
    def name(self) -> str:
        return f"perceptual distance ({self.backbone})"

    def __call__(self, run: Run, untouched: Run) -> float:
        return distance_by(_network(self.backbone), run, untouched)


def distance_by(network: Network, run: Run, untouched: Run) -> float:
    """Return what a network of two pictures says of the pictures of two runs; of videos, the mean over the frames.

    >>> import sdprobe
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", steps=2, seed=0, progress=False)
    >>> distance_by(lambda one, other: (one - other).abs().mean(), run, run)
    0.0

    Args:
        network: takes two pictures ``[1, 3, H, W]`` in [-1, 1], as LPIPS does, and returns one number.
        run: a run.
        untouched: the other run.
    """
    with torch.inference_mode():
        pairs = zip(frames_of(run), frames_of(untouched), strict=True)
        return float(np.mean([float(network(_as_tensor(one), _as_tensor(other))) for one, other in pairs]))


def _as_tensor(picture: Any) -> Float[Tensor, "1 3 H W"]:
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
    return pixels.float() / 127.5 - 1


@cache
def _network(backbone: str) -> Network:
    try:
        import lpips  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(
            f"a perceptual distance needs lpips and torchvision, and {error.name or 'one of them'} cannot be imported: "
            f"pip install lpips torchvision"
        ) from error
    network: Network = lpips.LPIPS(net=backbone, verbose=False).requires_grad_(False)
    return network
