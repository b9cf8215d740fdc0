"""`given_pictures`: pictures that exist already, inverted and made again, as what an experiment samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sdprobe.core.compose import Hook
from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import SampleSettings
from sdprobe.experiments.sampler import OwnLoop, opened
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.sampling.invert import invert


@dataclass(frozen=True, eq=False)
class GivenPictures(OwnLoop):
    """Pictures by inversion of those of the cases.

    Args:
        inverted_with: the prompt of every inversion; None for that of the case.
    """

    inverted_with: str | None = None

    def of_noise(self, prompt: str) -> GivenPictures:
        """Return the same with one prompt for every inversion, whatever the prompt of the run back is."""
        return replace(self, inverted_with=prompt)

    @property
    def identity(self) -> str:
        """What tells the model from another, used in this way."""
        return f"inverted {super().identity}"

    def sample(self, cases: Sequence[Case], hooks: Sequence[Hook], settings: SampleSettings) -> Run:
        if any(case.image is None for case in cases):
            raise ValueError("given pictures are those of the cases, and a case has none: Case(prompt, image=...)")
        if unknown := [name for name in settings if name not in ("steps", "guidance_scale")]:
            raise ValueError(
                f"a picture is inverted at its own size, by the model's scheduler: no {unknown[0]} is to be set"
            )
        inverted = invert(
            self.model,
            [opened(case.image) for case in cases],
            [case.prompt if self.inverted_with is None else self.inverted_with for case in cases],
            steps=settings.get("steps", 50),
            progress=False,
        )
        scale = settings.get("guidance_scale", 1.0)
        prompts = [case.prompt for case in cases]
        return inverted.sample(prompt=prompts, hooks=list(hooks), guidance_scale=scale, progress=False)


def given_pictures(model: Any) -> GivenPictures:
    """Return what makes the pictures of cases again, for an experiment on pictures that exist already.

    Each picture is inverted without hooks, by the default method of `sdprobe.invert` for the model, and made again from
    the noise that was found, with the hooks of the condition. It comes out nearly as it was. Where an experiment takes
    another prompt (`patch_sweep`), the noise is still that which was found with the case's own.

    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> model = sdprobe.load()
    >>> picture = sdprobe.sample(model, "a red circle", steps=10, seed=0, progress=False).images[0]
    >>> case = experiments.Case("a red circle", image=picture)
    >>> result = experiments.experiment(
    ...     experiments.given_pictures(model),
    ...     case,
    ...     {},
    ...     {"psnr": lambda run: sdprobe.psnr(run.images, [picture])[0]},
    ...     steps=20,
    ...     progress=False,
    ... )
    >>> result.values("untouched", "psnr")[0] > 20
    True

    Args:
        model: as in `sdprobe.sample`. The settings are ``steps``, in each direction, and ``guidance_scale``, 1 unless
            it is given, which is no guidance, and closest to the picture.
    """
    return GivenPictures(model if isinstance(model, Model) else load(model))
