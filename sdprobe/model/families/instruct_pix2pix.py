"""InstructPix2Pix: Stable Diffusion that is shown a picture beside the latents, guided by text and by picture."""

from __future__ import annotations

from collections.abc import Mapping

from sdprobe.core.run import Role
from sdprobe.model.families.stable_diffusion import StableDiffusion
from sdprobe.model.pipeline_parts import Latents


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

    def guided(self, of: Mapping[Role, Latents], scale: float) -> Latents:
        """Guidance by the text from the picture on, and by the picture from neither on."""
        by_text, by_picture = of["cond"] - of["image"], of["image"] - of["uncond"]
        return of["uncond"] + scale * by_text + self.image_guidance_scale * by_picture
