"""`LatentsForm`: latents as a pipeline holds them, as its denoiser is shown them, and as hooks are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.model.pipeline_parts import Latents


class LatentsForm:
    """How a pipeline holds latents and shows them to its denoiser. A family defines what differs from the hooks' form.

    Hooks are given latents and outputs as ``[images, channels, h, w]``, or ``[videos, channels, frames, h, w]``, and
    outputs in the sign that the scheduler takes.
    """

    rounds_latents: ClassVar[bool] = False
    """Whether the pipeline rounds its latents after each step to the type in which its denoiser is shown them."""

    places_beside = 0
    """How many places of other pictures the denoiser is shown after those of the image."""

    def size_told(self, call: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return the size of the latents that a call of the denoiser tells by its arguments; None if it tells none."""
        return None

    def places_told(self, call: Mapping[str, Any]) -> int:
        """Return how many places of other pictures a call shows the denoiser after those of the image."""
        return 0

    def call_by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a call of the denoiser with tensors that have an entry for each row, by the names they usually have.

        A family defines it whose pipeline gives its denoiser lists, or calls what it gives by other names.
        """
        return args, dict(kwargs)

    def call_as_made(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a call as the pipeline makes it: the inverse of `call_by_name`."""
        return args, dict(kwargs)

    def packed(self, latents: Latents) -> Shaped[Tensor, "rows ..."]:
        """Return latents in the pipeline's own form."""
        return latents

    def unpacked(self, packed: Shaped[Tensor, "rows ..."], *size: int) -> Latents:
        """Return a pipeline's latents in the hooks' form; ``size`` is that of the latents, ``(h, w)``."""
        return packed

    def rows_of(self, shown: Any) -> Shaped[Tensor, "rows ..."]:
        """Return what the denoiser is shown as one tensor in the pipeline's form, with an entry for each row."""
        rows: Tensor = shown
        return rows

    def shown_as(self, rows: Shaped[Tensor, "rows ..."], like: Any) -> Any:
        """Return rows as the denoiser is shown them: the inverse of `rows_of`, with the type of what was shown."""
        return rows.to(like.dtype)

    def output_of(self, answer: Any, *size: int) -> Latents:
        """Return what the denoiser answered in the hooks' form."""
        return self.unpacked(answer, *size)

    def answer_of(self, output: Latents, like: Any) -> Any:
        """Return an output as the denoiser answers it: the inverse of `output_of`."""
        return self.packed(output).to(like.dtype)

    def latents_returned(self, x: Latents) -> Shaped[Tensor, "rows ..."]:
        """Return latents as the pipeline returns them for ``output_type="latent"``."""
        return self.packed(x)
