"""`shown_pictures`: what a report shows of each image of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from PIL.Image import Image

from sdprobe.core.picture_of import picture_of
from sdprobe.core.run import Run
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.plot.frame_groups import frame_groups, shown_frames
from sdprobe.plot.tiled import MOST_FRAMES, tiled_pictures
from sdprobe.runs.hooks_of_run import HookOfRun


@dataclass(frozen=True)
class ShownPicture:
    """What is shown of an image or a video.

    Args:
        picture: the image, or frames of the video side by side.
        frames: the numbers of these frames in the video; none for an image.
        of: how many frames the video has; 0 for an image.
    """

    picture: Image
    frames: tuple[int, ...] = ()
    of: int = 0


def shown_pictures(run: Run, records: Sequence[HookOfRun]) -> list[ShownPicture]:
    """Return each image; of a video one picture with frames side by side: one for each frame of its heat maps."""
    if not run.images:
        return []
    grids = [key.grid for own in records if isinstance(own.live, AttentionMaps) for key in own.live.sums]
    largest = max(grids, key=prod, default=())
    found = []
    for image in range(run.settings.images):
        own = picture_of(run, image)
        assert own is not None  # a run with images has them all
        if isinstance(own, tuple):
            count = largest[0] if len(largest) == 3 else min(len(own), MOST_FRAMES)
            chosen = shown_frames(frame_groups(len(own), count))
            found.append(ShownPicture(tiled_pictures([own[i] for i in chosen]), tuple(chosen), len(own)))
        else:
            found.append(ShownPicture(own))
    return found
