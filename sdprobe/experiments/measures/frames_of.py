"""`frames_of` and `at_frames`: the pictures of a run that are measured, and a mask over them."""

from __future__ import annotations

from jaxtyping import Bool
from PIL.Image import Image
from torch import Tensor

from sdprobe.core.picture_of import is_of_videos, picture_of
from sdprobe.core.run import Run
from sdprobe.plot.frame_groups import frame_groups


def frames_of(run: Run) -> tuple[Image, ...]:
    """Return the picture of a run of one image, or every frame of a run of one video.

    >>> import sdprobe
    >>> len(frames_of(sdprobe.sample(sdprobe.load(), "a red circle", steps=2, seed=0, progress=False)))
    1

    Raises ValueError for a run that did not come to its end.
    """
    picture = picture_of(run, 0)
    if picture is None:
        raise ValueError("this run did not come to its end, and has no picture to measure")
    return picture if isinstance(picture, tuple) else (picture,)


def size_of(run: Run) -> tuple[int, int]:
    """Return height and width of the picture of a run, or of each frame of its video."""
    picture = frames_of(run)[0]
    return picture.height, picture.width


def at_frames(mask: Bool[Tensor, "*frames h w"], run: Run) -> Bool[Tensor, "*frames h w"]:
    """Return a mask over a picture; over a video, with a mask for each of its frames.

    Args:
        mask: of an image ``[h, w]``. Of a video also ``[frames, h, w]``, with the frames of the video or those of its
            latents, each for the frames that were decoded from it; without frames, it is the same of every frame.
        run: the run of one image or video.

    Raises ValueError for a mask with frames over an image, and for one with more frames than the video.
    """
    if not is_of_videos(run):
        if mask.ndim != 2:
            raise ValueError(f"a mask over an image is [h, w], not {list(mask.shape)}: frames are those of a video")
        return mask
    frames = len(frames_of(run))
    if mask.ndim == 2:
        return mask.expand(frames, *mask.shape)
    return mask if len(mask) == frames else mask[groups_of_frames(frames, len(mask))]


def groups_of_frames(frames: int, of: int) -> list[int]:
    """Return the latent frame that each frame of a video was decoded from.

    >>> groups_of_frames(5, 3)
    [0, 1, 1, 2, 2]

    Raises ValueError where some latent frame was not decoded, as the first of some videos of CogVideoX 1.5, and for
    more latent frames than frames.
    """
    if 1 < of <= frames and frames % of and (frames - 1) % (of - 1):
        raise ValueError(
            f"{frames} frames are not decoded from all of {of} latent frames, and which is whose is not known: give a "
            f"region [h, w], the same of every frame"
        )
    return frame_groups(frames, of)
