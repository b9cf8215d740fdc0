"""`NegativePrompt`: the picture's prompt is the negative prompt too, so that guidance changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sdprobe.sampling.inversions.fixed_point import FixedPoint
from sdprobe.sampling.inversions.request import FoundNoise, Request


@dataclass(frozen=True)
class NegativePrompt:
    """Negative-prompt inversion: invert without guidance, and sample with the prompt as the negative prompt.

    With both prompts equal, the guided prediction is the conditional one at every guidance scale, and the picture comes
    back as without guidance, at no further cost. An edit is guided from the picture's own prompt to the new one.

    Args:
        iterations: as for `FixedPoint`.

    Source: Miyake et al. 2023, "Negative-prompt Inversion: Fast Image Inversion for Editing with Text-guided Diffusion
    Models", section 3.2. There the inversion is plain DDIM; here it is fixed-point iteration.
    """

    iterations: int | None = None

    def invert(self, request: Request) -> FoundNoise:
        model = request.model
        if request.negative_prompt is not None:
            raise ValueError("the negative prompt of negative-prompt inversion is the prompt: give no other")
        if "uncond" not in model.roles(2.0):
            raise ValueError(
                f"{type(model).__name__} is told the guidance scale as a number and reads no negative prompt: take "
                f"another method, such as 'fixed-point'"
            )
        found = FixedPoint(self.iterations).invert(replace(request, guidance_scale=1.0))
        return replace(found, negative_prompt=tuple(request.prompts))
