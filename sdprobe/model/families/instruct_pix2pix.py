"""InstructPix2Pix: Stable Diffusion, also XL, with an image as a second input, guided by text and image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sdprobe.core.run import Role
from sdprobe.model.base import Model
from sdprobe.model.families.stable_diffusion import StableDiffusion
from sdprobe.model.families.stable_diffusion_xl import StableDiffusionXL
from sdprobe.model.pipeline_parts import Latents


class ThreeWayGuidance(Model):
    """A model with three-way guidance (Brooks et al., CVPR 2023, eq. 3).

    Attributes:
        image_guidance_scale: the guidance scale of the image, in the current run.
    """

    image_guidance_scale = 1.5

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        # In the pipeline's own order: prompt and image, image only, neither.
        return ("cond", "image", "uncond") if guidance_scale > 1 and self.image_guidance_scale >= 1 else ("cond",)

    def guided(self, of: Mapping[Role, Latents], scale: float) -> Latents:
        """Return three-way guidance: by the text relative to the image, and by the image relative to neither."""
        by_text, by_picture = of["cond"] - of["image"], of["image"] - of["uncond"]
        return of["uncond"] + scale * by_text + self.image_guidance_scale * by_picture


class InstructPix2Pix(ThreeWayGuidance, StableDiffusion):
    """Stable Diffusion with three-way guidance."""

    pipelines = ("StableDiffusionInstructPix2PixPipeline",)
    variants: ClassVar[tuple[str, ...]] = ()


class InstructPix2PixXL(ThreeWayGuidance, StableDiffusionXL):
    """Stable Diffusion XL with three-way guidance."""

    pipelines = ("StableDiffusionXLInstructPix2PixPipeline",)
    variants: ClassVar[tuple[str, ...]] = ()
