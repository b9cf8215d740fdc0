"""`Request`, `FoundNoise` and `Method`: what an inversion is asked for, what it finds, and what finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.compose import Hook
from sdprobe.core.given_hooks import Given, put_before
from sdprobe.core.run import Run
from sdprobe.model.base import Model
from sdprobe.sampling.loop import sample


@dataclass(frozen=True, eq=False)
class Request:
    """Pictures to invert, and the settings.

    Args:
        model: the model.
        x0: the pictures' latents.
        prompts: one for each picture.
        negative_prompt: as for `sdprobe.sample`.
        steps: number of steps in each direction.
        guidance_scale: of the run back to pictures, and of that to noise if the method guides it.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        hooks: hooks of the run to noise.
        progress: show progress bars.
    """

    model: Model
    x0: Shaped[Tensor, "images channels *size"]
    prompts: Sequence[str]
    negative_prompt: str | Sequence[str] | None
    steps: int
    guidance_scale: float
    height: int
    width: int
    hooks: Given
    progress: bool

    def run_to_noise(self, scheduler: Any, *, hooks: Sequence[Hook] = (), **changed: Any) -> Run:
        """Run from the pictures to noise; the hooks of the method come before the user's.

        Raises ValueError if a hook ends it on the way.
        """
        run = self.run(self.x0, scheduler, put_before(hooks, self.hooks, "the inversion"), **changed)
        if run.stopped_at is not None:
            raise ValueError(
                f"a hook ended the run to noise after step {run.stopped_at} (Step.stop), so that it did not reach "
                f"noise: let it run to its end"
            )
        return run

    def run(self, latents: Tensor, scheduler: Any, hooks: Given, **changed: Any) -> Run:
        """Run from latents, with the request's settings."""
        settings = {"guidance_scale": self.guidance_scale, "negative_prompt": self.negative_prompt} | changed
        return sample(
            self.model,
            self.prompts,
            hooks=hooks,
            steps=self.steps,
            seed=0,  # no noise is drawn
            scheduler=scheduler,
            height=self.height,
            width=self.width,
            latents=latents,
            progress=self.progress,
            **settings,
        )


@dataclass(frozen=True, eq=False)
class FoundNoise:
    """The noise that a method has found, and what the run back needs.

    Args:
        run: the run from picture to noise.
        scheduler: that of the run back.
        hooks: the hooks that the run back needs, before any other.
        negative_prompt: that of the run back.
        residuals: how far each step is from its goal, where the method has one (see `sdprobe.Inversion`).
    """

    run: Run
    scheduler: Any
    negative_prompt: str | Sequence[str] | None
    hooks: tuple[Hook, ...] = ()
    residuals: tuple[float, ...] = ()


@runtime_checkable
class Method(Protocol):
    """A method of inversion: a dataclass whose fields are its options."""

    def invert(self, request: Request) -> FoundNoise:
        """Find the noise."""
        ...
