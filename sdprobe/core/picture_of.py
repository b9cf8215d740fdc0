"""`picture_of`: what a map of an image of a run is shown on."""

from __future__ import annotations

from PIL.Image import Image

from sdprobe.core.run import Run


def picture_of(run: Run, image: int) -> Image | tuple[Image, ...] | None:
    """Return an image of a run; of a video, the tuple of its frames; None in a run that did not come to its end.

    Args:
        run: the run.
        image: the number of the image, or of the video.
    """
    if not run.images:
        return None
    if not is_of_videos(run):
        return run.images[image]
    each = len(run.images) // run.settings.images
    return tuple(run.images[each * image : each * (image + 1)])


def is_of_videos(run: Run) -> bool:
    """Whether a run makes videos."""
    return getattr(run.settings, "frames", None) is not None
