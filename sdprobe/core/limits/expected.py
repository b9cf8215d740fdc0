"""Steps and sites before the run: what only the run will show raises an error when it is read."""

from __future__ import annotations

from typing import Any

from sdprobe.core.site import Site
from sdprobe.core.step import Step


class NotYetKnown(LookupError):
    """Something was read that only the run itself will show."""


class ExpectedStep(Step):
    """A step that the run is to make."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("latents", "model_output", "further", "leaves"):
            raise NotYetKnown(name)
        return super().__getattribute__(name)


class ExpectedSite(Site):
    """A site that the denoiser is to pass."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("image", "text"):
            raise NotYetKnown(name)
        return super().__getattribute__(name)


def expect(place: Step | Site) -> Any:
    """Return a step or a site as one that is expected."""
    object.__setattr__(place, "__class__", ExpectedStep if isinstance(place, Step) else ExpectedSite)
    return place
