"""`UNetModel`: base class of the families whose denoiser is a U-Net."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.run import Role, Settings
from sdprobe.model.base import Model
from sdprobe.model.denoiser.token_layout import Grid
from sdprobe.model.pipeline_parts import Latents
from sdprobe.model.text.conditioning import Conditioning, DenoiserArguments


class UNetModel(Model):
    """A family with a U-Net, where each level halves the image, and with cross-attention to the text."""

    network = "unet"

    @property
    def middle(self) -> str:
        return "mid_block.*"

    def roles(self, guidance_scale: float) -> tuple[Role, ...]:
        distilled = self.pipe.unet.config.time_cond_proj_dim is not None
        return ("cond",) if distilled else super().roles(guidance_scale)

    def refuse_picture_prompt(self) -> None:
        if self.pipe.unet.config.encoder_hid_dim_type == "ip_image_proj":
            raise ValueError(
                "this pipeline has an IP-Adapter, which asks for a picture beside the prompt, and a run of sdprobe's "
                "own takes none: attach to the pipeline and call it with ip_adapter_image=..., or take the adapter "
                "off: pipe.unload_ip_adapter()"
            )

    def besides(self, settings: Settings) -> DenoiserArguments:
        width = self.pipe.unet.config.time_cond_proj_dim
        if width is None:
            return {}
        # A network distilled from guidance gets the guidance scale.
        scale = torch.tensor(settings.guidance_scale - 1).repeat(settings.images)
        cond: Tensor = self.pipe.get_guidance_scale_embedding(scale, embedding_dim=width)
        return {"timestep_cond": cond.to(device=self.device, dtype=self.dtype)}

    def predict(
        self, rows: Latents, timestep: Tensor, conditioning: Conditioning
    ) -> Shaped[Tensor, "rows channels h w"]:
        output: Tensor = self.pipe.unet(rows, timestep, **self.arguments(conditioning), return_dict=False)[0]
        return output

    def arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        """Return the conditioning as the network's arguments."""
        return dict(conditioning.arguments)

    def grid_at(self, site: str, settings: Settings) -> Grid | None:
        """Return the grid: attention comes before its block's downsampling, or after the upsampling below it."""
        part, number, *_ = [*site.split("."), ""]
        last = len(self.denoiser.config.block_out_channels) - 1
        if part == "mid_block":
            level = last
        elif part in ("down_blocks", "up_blocks") and number.isdigit():
            level = int(number) if part == "down_blocks" else last - int(number)
        else:
            return None
        h, w = self.latent_size(settings)
        for _ in range(level):
            h, w = (h + 1) // 2, (w + 1) // 2
        return h, w

    def grids(self, settings: Settings) -> dict[int, Grid]:
        """Return the grids of all levels: the latents' size, halved (rounding up) to 1 × 1."""
        h, w = self.latent_size(settings)
        found: dict[int, Grid] = {h * w: (h, w)}
        while h * w > 1:
            h, w = (h + 1) // 2, (w + 1) // 2
            found[h * w] = (h, w)
        return found
