"""`Settings`: everything that determines a run, except its model and its hooks."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sdprobe.core.short_repr import short_repr


@dataclass(frozen=True, repr=False)
class Settings:
    """Everything that determines a run, except its model and its hooks; every value is filled in.

    Sizes are in pixels. ``seed`` is one number, or one per image, or None in an attached pipeline whose noise came from
    an unknown seed. ``scheduler`` is a class name of diffusers. ``negative_given`` is False if no negative prompt was
    given, which some models distinguish from an empty one. ``strength`` is None in a run from pure noise; a run from an
    image leaves out the first ``start_step`` steps. ``chunks``: whether prompts are read in chunks beyond the context.
    ``weights``: whether prompts are read with weights of words; ``prompt`` has them as they were written.
    ``frames`` is the number of frames of each video, None for images. ``guidance_scale_2`` is that of the steps of a
    second denoiser, None where there is none.
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
        shown = (name.name for name in fields(self) if name.name != "frames" or self.frames is not None)
        own = ((name, getattr(self, name)) for name in shown)
        return f"Settings({', '.join(f'{name}={short_repr(value)}' for name, value in own)})"

    @property
    def images(self) -> int:
        """The number of images in the run."""
        return len(self.prompt) * self.images_per_prompt
