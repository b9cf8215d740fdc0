"""InstructPix2Pix: Stable Diffusion that is shown a picture beside the latents, guided by text and by picture."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.model.stable_diffusion import StableDiffusion
from sdprobe.run import Role, Row, rows_of


class InstructPix2Pix(StableDiffusion):
    """Stable Diffusion with three-way guidance (Brooks et al., CVPR 2023, eq. 3).

    Attributes:
        image_guidance_scale: how strongly the picture guides, in the run under way.
    """

    pipelines = ("StableDiffusionInstructPix2PixPipeline",)
    image_guidance_scale = 1.5

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        # In the pipeline's own order: prompt and picture, picture alone, neither.
        return ("cond", "image", "uncond") if guidance_scale > 1 and self.image_guidance_scale >= 1 else ("cond",)

    def guide(
        self, output: Shaped[Tensor, "rows channels h w"], rows: Sequence[Row], scale: float
    ) -> Shaped[Tensor, "images channels h w"]:
        """Guidance by the text from the picture on, and by the picture from neither on."""
        cond = output[rows_of(rows, "cond")]
        if all(row.role == "cond" for row in rows):
            return cond
        image, uncond = output[rows_of(rows, "image")], output[rows_of(rows, "uncond")]
        return uncond + scale * (cond - image) + self.image_guidance_scale * (image - uncond)
