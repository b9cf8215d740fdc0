"""`LatentChange`: how far the final latents are from those of the untouched run."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from sdprobe.core.run import Run
from sdprobe.experiments.measures.change_within import ChangeWithin
from sdprobe.experiments.measures.mask_on_grid import mask_on_grid


@dataclass(frozen=True)
class LatentChange(ChangeWithin):
    """The root mean square difference to the untouched final latents, in standard deviations of the latter.

    The standard deviation is over all channels, frames and places of the untouched latents, also for a region, so that
    regions can be compared. 0 is no change; √2 is what two independent draws of the same distribution have on average.

    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> swap = {"blue": [sdprobe.ReplaceToken("red", with_="blue")]}
    >>> result = experiments.experiment(
    ...     sdprobe.load(), "a red circle", swap, LatentChange(), steps=2, progress=False
    ... )
    >>> [(row["condition"], row["value"] > 0) for row in result.rows]
    [('untouched', False), ('blue', True)]

    Args:
        within: where; None for the whole picture. A place of the latents is in the region if the region covers at least
            half of it; of a video, over the frames that are decoded from it.

    It returns None where the picture has no such region.

    Raises:
        TypeError: for what is no region.
        ValueError: for a region that covers no place of the latents by half.
    """

    what = "latent change"

    def change(self, run: Run, untouched: Run, mask: Bool[Tensor, "*frames h w"]) -> float:
        """Return the change where a mask at the picture's size, of a video for each of its frames, is True."""
        latents, others = (_final_latents(own) for own in (run, untouched))
        there = mask_on_grid(mask, tuple(others.shape[1:]))
        return float((latents - others)[:, there].square().mean().sqrt() / others.std(correction=0))


def _final_latents(run: Run) -> Float[Tensor, "channels *frames h w"]:
    assert run.latents is not None  # the run has ended
    return run.latents[0].detach().cpu().double()
