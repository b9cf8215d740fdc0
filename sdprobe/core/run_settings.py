"""`Settings`: everything that determines a run, except its model and its hooks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sdprobe.core.short_repr import short_repr

NOT_KNOWN = "not known"
OF_VIDEOS = ("frames", "guidance_scale_2")


@dataclass(frozen=True, repr=False)
class Settings:
    """Everything that determines a run, except its model and its hooks; every value is filled in.

    Sizes are in pixels. ``seed`` is one number, or one per image, or None in an attached pipeline whose noise came from
    an unknown seed. ``scheduler`` is a class name of diffusers. ``negative_given`` is False if no negative prompt was
    given, which some models distinguish from an empty one. ``strength`` is None in a run from pure noise; a run from an
    image leaves out the first ``start_step`` steps. ``chunks``: whether prompts are read in chunks beyond the context.
    ``weights``: whether prompts are read with weights of words; ``prompt`` has them as they were written.
    ``frames`` is the number of frames that each video has, also where another was asked for; None for images.
    ``guidance_scale_2`` is that of the steps of a second denoiser, None where there is none.
    """

    prompt: tuple[str, ...]
    negative_prompt: tuple[str, ...]
    steps: int
    guidance_scale: float
    seed: int | tuple[int, ...] | None
    scheduler: str
    height: int
    width: int
    images_per_prompt: int
    negative_given: bool = True
    strength: float | None = None
    start_step: int = 0
    chunks: bool = False
    weights: bool = False
    frames: int | None = None
    guidance_scale_2: float | None = None

    def __repr__(self) -> str:
        every = ((own.name, getattr(self, own.name)) for own in fields(self))
        own = ((name, value) for name, value in every if name not in OF_VIDEOS or value is not None)
        return f"Settings({', '.join(f'{name}={short_repr(value)}' for name, value in own)})"

    @property
    def images(self) -> int:
        """The number of images in the run."""
        return len(self.prompt) * self.images_per_prompt

    @property
    def said(self) -> dict[str, str]:
        """How many images of which size, steps and guidance, each in words."""
        made, frames = ("image", "") if self.frames is None else ("video", f"{self.frames} frames of ")
        return {
            "images": f"{self.images} {made}{'s' * (self.images != 1)}",
            "size": f"{frames}{self.height}×{self.width}",
            "steps": f"{self.steps} steps of {self.scheduler}",
            "guidance": f"{self.guidance_scale:g}",
        }


@dataclass(frozen=True, repr=False)
class PartlyKnownSettings(Settings):
    """What is known of the settings of a pipeline that no family knows: None where the arguments do not tell.

    What it makes need not be pictures: sizes and numbers of images are those of whatever it makes.
    """

    steps: Any
    guidance_scale: Any
    scheduler: Any
    height: Any
    width: Any

    def __repr__(self) -> str:
        own = ((name.name, getattr(self, name.name)) for name in fields(self))
        known = ("strength", *OF_VIDEOS)  # None in a run from pure noise, or of images
        said = (
            f"{name}={NOT_KNOWN if value is None and name not in known else short_repr(value)}" for name, value in own
        )
        return f"Settings({', '.join(said)})"

    @property
    def said(self) -> dict[str, str]:
        scheduler = NOT_KNOWN if self.scheduler is None else self.scheduler
        sized = None not in (self.height, self.width)
        made = "video" if self.frames is not None else "image" if sized else "output"
        frames = "" if self.frames is None else f"{self.frames} frames of "
        return {
            "images": f"{self.images} {made}{'s' * (self.images != 1)}",
            "size": frames + (f"{self.height}×{self.width}" if sized else f"size {NOT_KNOWN}"),
            "steps": f"steps {NOT_KNOWN}" if self.steps is None else f"{self.steps} steps of {scheduler}",
            "guidance": NOT_KNOWN if self.guidance_scale is None else f"{self.guidance_scale:g}",
        }
