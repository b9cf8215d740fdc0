"""Stock pipelines of diffusers on the parts of a tiny one, each with what a call of it is given besides the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
    ZImageImg2ImgPipeline,
)
from PIL import Image

import sdprobe
from sdprobe.testing.stock_call import made_of
from tests.families import flux, stable_diffusion_3, stable_diffusion_xl
from tests.tiny import stable_diffusion
from tests.tiny_models import cogvideox as tiny_cogvideox
from tests.tiny_models import wan as tiny_wan
from tests.tiny_models.z_image import z_image

SMALL = {"height": 16, "width": 16}


class Stock(NamedTuple):
    """A pipeline, and arguments of its call."""

    pipe: Any
    given: Mapping[str, Any]


def picture(size: int = 16) -> Image.Image:
    """A picture to start from."""
    return Image.radial_gradient("L").resize((size, size)).convert("RGB")


def mask() -> Image.Image:
    """Its right half."""
    return Image.linear_gradient("L").rotate(90).resize((16, 16)).point(lambda value: 255 * (value > 127))


FILMED = {"image": picture(), "num_frames": 5, **SMALL}


def text_to_image() -> Stock:
    return _on_tiny(StableDiffusionPipeline)


def image_to_image() -> Stock:
    return _on_tiny(StableDiffusionImg2ImgPipeline, image=picture(), strength=0.6)


def inpainting() -> Stock:
    """With a network of four channels: what is kept is put back after every step."""
    return _on_tiny(StableDiffusionInpaintPipeline, image=picture(), mask_image=mask(), **SMALL)


def inpainting_by_network() -> Stock:
    """With a network of nine channels, which is shown the mask and the picture."""
    given = {"image": picture(), "mask_image": mask(), **SMALL}
    return _on_tiny(StableDiffusionInpaintPipeline, {"unet": _unet(9)}, **given)


def instruct_pix2pix() -> Stock:
    given = {"image": picture(), "image_guidance_scale": 1.5}
    return _on_tiny(StableDiffusionInstructPix2PixPipeline, {"unet": _unet(8)}, **given)


def controlnet() -> Stock:
    return _on_tiny(StableDiffusionControlNetPipeline, _controlled(stable_diffusion().unet), image=picture())


def controlnet_guessing() -> Stock:
    return _on_tiny(
        StableDiffusionControlNetPipeline, _controlled(stable_diffusion().unet), image=picture(), guess_mode=True
    )


def controlnet_image_to_image() -> Stock:
    given = {"image": picture(), "control_image": picture(), "strength": 0.6}
    return _on_tiny(StableDiffusionControlNetImg2ImgPipeline, _controlled(stable_diffusion().unet), **given)


def controlnet_inpainting() -> Stock:
    given = {"image": picture(), "mask_image": mask(), "control_image": picture()}
    return _on_tiny(StableDiffusionControlNetInpaintPipeline, _controlled(stable_diffusion().unet), **given)


def xl_image_to_image() -> Stock:
    return _on(stable_diffusion_xl(), StableDiffusionXLImg2ImgPipeline, image=picture(), strength=0.6)


def xl_inpainting() -> Stock:
    return _on(stable_diffusion_xl(), StableDiffusionXLInpaintPipeline, **_inpainted(0.6))


def xl_controlnet() -> Stock:
    pipe = stable_diffusion_xl()
    return _on(pipe, StableDiffusionXLControlNetPipeline, _controlled(pipe.unet), image=picture())


def xl_controlnet_image_to_image() -> Stock:
    pipe, given = stable_diffusion_xl(), {"image": picture(), "control_image": picture(), "strength": 0.6}
    return _on(pipe, StableDiffusionXLControlNetImg2ImgPipeline, _controlled(pipe.unet), **given)


def sd3_image_to_image() -> Stock:
    return _on(stable_diffusion_3(), StableDiffusion3Img2ImgPipeline, **SMALL, image=picture(), strength=0.6)


def sd3_inpainting() -> Stock:
    pipe = stable_diffusion_3()  # the pipeline knows networks of 16 channels only
    torch.manual_seed(1)
    network = SD3Transformer2DModel.from_config({**pipe.transformer.config, "in_channels": 16, "out_channels": 16})
    parts = {"transformer": network, "vae": AutoencoderKL.from_config({**pipe.vae.config, "latent_channels": 16})}
    return _on(pipe, StableDiffusion3InpaintPipeline, parts, **_inpainted(0.6))


def sd3_controlnet() -> Stock:
    pipe = stable_diffusion_3(dual=False)
    torch.manual_seed(2)
    network = SD3ControlNetModel.from_transformer(pipe.transformer, num_layers=1, num_extra_conditioning_channels=0)
    return _on(pipe, StableDiffusion3ControlNetPipeline, {"controlnet": _stirred(network)}, control_image=picture())


def flux_guided() -> Stock:
    """With a negative prompt of its own, so that the denoiser is called twice in each step."""
    return _on(flux(), FluxPipeline, **SMALL, negative_prompt="a star", true_cfg_scale=3.0)


def flux_image_to_image() -> Stock:
    return _on(flux(), FluxImg2ImgPipeline, **SMALL, image=picture(), strength=0.6)


def z_image_image_to_image() -> Stock:
    return _on(z_image(), ZImageImg2ImgPipeline, **SMALL, image=picture(), strength=0.6)


def flux_inpainting() -> Stock:
    return _on(flux(), FluxInpaintPipeline, **_inpainted(0.6))


def flux_controlnet() -> Stock:
    pipe = flux()
    torch.manual_seed(2)
    network = FluxControlNetModel.from_transformer(
        pipe.transformer, num_layers=1, num_single_layers=0, attention_head_dim=16, num_attention_heads=2
    )
    return _on(pipe, FluxControlNetPipeline, {"controlnet": _stirred(network)}, **SMALL, control_image=picture())


def wan_image_to_video() -> Stock:
    """With the picture's tokens, to which every site of cross-attention attends first."""
    return Stock(tiny_wan.wan_image_to_video(), FILMED)


def wan_small_image_to_video() -> Stock:
    """With one timestep for each token: the first frame has no noise."""
    return Stock(tiny_wan.wan_image_to_video("2.2 5B"), FILMED)


def cogvideox_image_to_video() -> Stock:
    """With the picture's latents in further channels, after the frames."""
    return Stock(tiny_cogvideox.cogvideox_image_to_video(), FILMED)


STOCK: tuple[Callable[[], Stock], ...] = (
    text_to_image,
    image_to_image,
    inpainting,
    inpainting_by_network,
    instruct_pix2pix,
    controlnet,
    controlnet_guessing,
    controlnet_image_to_image,
    controlnet_inpainting,
)
"""Of Stable Diffusion."""

OTHERS: tuple[Callable[[], Stock], ...] = (
    xl_image_to_image,
    xl_inpainting,
    xl_controlnet,
    xl_controlnet_image_to_image,
    sd3_image_to_image,
    sd3_inpainting,
    sd3_controlnet,
    flux_guided,
    flux_image_to_image,
    z_image_image_to_image,
    flux_inpainting,
    flux_controlnet,
    wan_image_to_video,
    wan_small_image_to_video,
    cogvideox_image_to_video,
)
"""Of other families."""


ON_THE_WAY = ("prompt_embeds", "latents", "model_output", "noise_pred", "sample", "final_latents", "image")
"""The points whose values pass from one part of a pipeline to another, differently in each pipeline."""


def called(stock: Stock, prompt: Any = "a red circle", seed: int = 0, **given: Any) -> Any:
    """What a pipeline returns, as a tensor where nothing else is asked for."""
    usual = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # some pipelines also draw from torch's own generator
    own = list(prompt) if isinstance(prompt, list) else prompt  # a pipeline may write into it
    made = made_of(stock.pipe(prompt=own, generator=generator, **usual | dict(stock.given) | given))
    return torch.from_numpy(made) if isinstance(made, np.ndarray) else made  # an older pipeline knows arrays only


def attached(stock: Stock, *given: Any, prompt: Any = "a red circle", **asked: Any) -> Any:
    """The run of a call of a pipeline with hooks attached."""
    with sdprobe.attach(stock.pipe, given) as run:
        called(stock, prompt, **asked)
    return run


def sampled(stock: Stock, *given: Any, prompt: Any = "a red circle", guidance_scale: float = 3.0, **asked: Any) -> Any:
    """The same run by our own loop."""
    fixed = {"steps": 3, "guidance_scale": guidance_scale, "seed": 0, "progress": False} | asked
    return sdprobe.sample(stock.pipe, prompt, hooks=given, **fixed)


def _on_tiny(kind: Any, parts: Mapping[str, Any] | None = None, **given: Any) -> Stock:
    return _on(stable_diffusion(), kind, {**(parts or {}), "requires_safety_checker": False}, **given)


def _on(pipe: Any, kind: Any, parts: Mapping[str, Any] | None = None, **given: Any) -> Stock:
    made = kind(**{**pipe.components, **(parts or {})})
    made.set_progress_bar_config(disable=True)
    return Stock(made, given)


def _inpainted(strength: float) -> dict[str, Any]:
    return {"image": picture(), "mask_image": mask(), "strength": strength, **SMALL}


def _controlled(unet: UNet2DConditionModel) -> dict[str, Any]:
    torch.manual_seed(2)
    return {"controlnet": _stirred(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)))}


def _stirred(network: torch.nn.Module) -> torch.nn.Module:
    """ControlNet begins as one that adds nothing; this one adds something."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def _unet(channels: int) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel.from_config({**stable_diffusion().unet.config, "in_channels": channels})
