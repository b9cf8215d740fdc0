"""`DenoiserRows`: the rows of the denoiser, the calls of it in a step, and what is made of its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.run import Role, Row, Settings, rows_of
from sdprobe.core.step import Step
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import Conditioning


class DenoiserRows:
    """The rows of a family's denoiser. A family defines what differs from two groups of rows in one call.

    Attributes:
        separate_calls: whether the pipeline calls its denoiser for each role by itself, ``"cond"`` first.
        guidance_argument: the name of the guidance scale in the pipeline's call.
    """

    separate_calls: ClassVar[bool] = False
    guidance_argument: ClassVar[str] = "guidance_scale"

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        """Return the roles of the denoiser's rows at this guidance scale, in the order of its batch."""
        return ("uncond", "cond") if guidance_scale > 1 else ("cond",)

    def roles_asked(self, asked: Mapping[str, Any], settings: Settings) -> tuple[Role, ...]:
        """Return the roles of a call of the pipeline with these arguments."""
        return self.roles(settings.guidance_scale)

    def narrowed(self, conditioning: Conditioning, rows: slice | list[int]) -> Conditioning:
        """Return the conditioning of some rows only: those of one role, one for each image."""
        return conditioning.of(rows)

    def passes(self, step: Step, conditioning: Conditioning) -> list[tuple[Step, Conditioning]]:
        """Return the calls of the denoiser in a step: one for all of its rows, or one for each role."""
        if not self.separate_calls:
            return [(step, conditioning)]
        each = ((rows, rows[0].role) for rows in self.rows_by_call(step))
        return [
            (replace(step, rows=rows), replace(conditioning.of(step.rows_of(role)), role=role)) for rows, role in each
        ]

    def rows_by_call(self, step: Step) -> list[tuple[Row, ...]]:
        """Return the rows of each call of the denoiser in a step: all of them, or those of one role."""
        if not self.separate_calls:
            return [step.rows]
        return [tuple(row for row in step.rows if row.role == role) for role in step.roles]

    def guide(
        self, output: Shaped[Tensor, "rows channels *size"], rows: Sequence[Row], scale: float
    ) -> Shaped[Tensor, "images channels *size"]:
        """Combine the denoiser's output for all rows into one noise prediction for each image."""
        of = {role: output[rows_of(rows, role)] for role in dict.fromkeys(row.role for row in rows)}
        return of["cond"] if len(of) == 1 else self.guided(of, scale)

    def guided(self, of: Mapping[Role, Latents], scale: float) -> Latents:
        """Classifier-free guidance (Ho & Salimans 2022, eq. 6, in its usual form): uncond + scale (cond - uncond)."""
        return of["uncond"] + scale * (of["cond"] - of["uncond"])

    def usual_scale(self, scale: float) -> float:
        """Return the factor s in uncond + s (cond - uncond) of a guidance scale of the pipeline."""
        return scale

    def scale_at(self, step: Step) -> float:
        """Return the scale of classifier-free guidance in a step."""
        return step.run.settings.guidance_scale
