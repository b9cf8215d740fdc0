"""`film`: a run as a film of x_t and predicted x0, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from sdprobe import plot
from sdprobe.files.video_files import whole_side, write_gif, write_mp4
from sdprobe.observe.preview import Preview
from sdprobe.plot.tiled import tiled_pictures


@dataclass(frozen=True, eq=False)
class Film:
    """Two images for every step, and the final image. Made by `sdprobe.film`.

    >>> import tempfile
    >>> import sdprobe
    >>> preview = sdprobe.Preview()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[preview], steps=4, seed=0, progress=False)
    >>> own = sdprobe.film(run[preview])
    >>> own.gif(tempfile.mkdtemp() + "/circle.gif", height=64).name
    'circle.gif'
    >>> [ax.get_title() for ax in own.sheet(columns=2).axes[:2]]
    ['step 0', 'step 3']

    Attributes:
        steps: the numbers of the steps.
        total: how many steps the run has.
        noisy: x_t at each of them.
        denoised: predicted x0 at each of them.
        final: the image of the final latents.
    """

    steps: tuple[int, ...]
    total: int
    noisy: tuple[Image.Image, ...] = field(repr=False)
    denoised: tuple[Image.Image, ...] = field(repr=False)
    final: Image.Image = field(repr=False)

    def frames(self, height: int = 256) -> list[Image.Image]:
        """Return the frames: x_t left, predicted x0 right, the step below; the last frame shows the final image.

        Args:
            height: height of each image in pixels; the frame's sides are multiples of 16.
        """
        said = [f"step {step} of {self.total}" for step in self.steps]
        pairs = zip((*self.noisy, self.final), (*self.denoised, self.final), (*said, "the end"), strict=True)
        return [_frame(x_t, x0, text, height) for x_t, x0, text in pairs]

    def gif(self, path: str | Path, fps: int = 8, height: int = 256) -> Path:
        """Write the film as a GIF that repeats; return its path.

        Args:
            path: the file.
            fps: frames per second, 1 to 50.
            height: height of each image in pixels.
        """
        return write_gif(self.frames(height), Path(path), fps)

    def mp4(self, path: str | Path, fps: int = 8, height: int = 256) -> Path:
        """Write the film as MP4; return its path. Raises ImportError without ``pip install 'sdprobe[video]'``.

        Args:
            path: the file.
            fps: frames per second.
            height: height of each image in pixels.
        """
        return write_mp4(self.frames(height), Path(path), fps)

    def sheet(self, columns: int = 8) -> Figure:
        """Plot x_t above predicted x0, at ``columns`` steps from the first to the last."""
        count = min(columns, len(self.steps))
        chosen = [round(i * (len(self.steps) - 1) / max(count - 1, 1)) for i in range(count)]
        return plot.sheet(
            [[pictures[i] for i in chosen] for pictures in (self.noisy, self.denoised)],
            rows=["$x_t$", "predicted $x_0$"],
            columns=[f"step {self.steps[i]}" for i in chosen],
        )


def film(preview: Preview, image: int = 0) -> Film:
    """Make a film of one image of a run with a `Preview` hook. Of a video, each picture has its frames side by side.

    >>> import sdprobe
    >>> preview = sdprobe.Preview()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[preview], steps=4, seed=0, progress=False)
    >>> film = sdprobe.film(run[preview])
    >>> film, len(film.frames()), film.frames(height=64)[0].size
    (Film(steps=(0, 1, 2, 3), total=4), 5, (144, 96))

    Args:
        preview: the run's record, ``run[preview]``, with both the latents and predicted x0.
        image: the number of the image in the run.

    Raises:
        ValueError: for an image that is not in the run, and for a record that lacks the latents or predicted x0.
    """
    if missing := {"latents", "denoised"} - set(preview.keep):
        raise ValueError(f"this preview did not keep {', '.join(missing)}: give it keep=('latents', 'denoised')")
    count = len(preview.final) // preview.frames
    if not 0 <= image < count:
        raise ValueError(f"image {image} is not in this run of {count} images, counted from 0")
    noisy, denoised = (
        tuple(tiled_pictures(preview.of_image(step, image)) for step in preview[name])
        for name in ("latents", "denoised")
    )
    final = tiled_pictures(preview.of_image(preview.final, image))
    return Film(tuple(preview.indices), preview.total, noisy, denoised, final)


def _frame(x_t: Image.Image, x0: Image.Image, text: str, height: int) -> Image.Image:
    width, gap = round(height * x_t.width / x_t.height), height // 16
    letters = max(height // 18, 9)
    strip = 3 * letters // 2  # the upper one for the titles, the lower one for the step
    size = (whole_side(2 * width + gap), whole_side(height + 2 * strip))
    frame = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(frame), ImageFont.load_default(letters)
    for picture, left, name in ((x_t, 0, "x_t"), (x0, width + gap, "predicted x0")):
        frame.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, strip))
        pen.text((left + width / 2, strip / 2), name, "black", font, anchor="mm")
    pen.text((size[0] / 2, height + 1.5 * strip), text, "black", font, anchor="mm")
    return frame
