"""The settings of a run: everything that decides it but its model and its hooks."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sdprobe.core.short_repr import short_repr


@dataclass(frozen=True, repr=False)
class Settings:
    """Everything that decides a run but its model and its hooks; every value is filled in.

    Sizes are in pixels; ``seed`` is one number, or one per image, or None in an
    attached pipeline whose noise came from no seed that is known; ``scheduler`` is a class name of diffusers.
    ``negative_given`` is False where the negative prompt was left out, which some models tell from an empty one.
    ``strength`` is None in a run from pure noise; one from a picture leaves out the first ``start_step`` steps.
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

    def __repr__(self) -> str:
        own = ((name.name, getattr(self, name.name)) for name in fields(self))
        return f"Settings({', '.join(f'{name}={short_repr(value)}' for name, value in own)})"

    @property
    def images(self) -> int:
        """How many pictures the run makes."""
        return len(self.prompt) * self.images_per_prompt
