"""Further stock pipelines of known families, on the parts of a tiny one, each with what a call of it is given."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import diffusers
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    FluxControlNetModel,
    FluxMultiControlNetModel,
    MultiAdapter,
    SD3ControlNetModel,
    SD3MultiControlNetModel,
    T2IAdapter,
)
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.stock_pipelines import SMALL, Stock, mask, picture
from tests.tiny import stable_diffusion

CONTROLLED = {"conditioning_embedding_out_channels": (4, 8)}
PAINTED = {"image": picture(), "mask_image": mask()}


def on(pipe: Any, kind: str, parts: dict[str, Any] | None = None, **given: Any) -> Stock:
    """A pipeline by the name of its class, with the parts of another."""
    takes = signature(getattr(diffusers, kind).__init__).parameters
    every = {**pipe.components, "requires_safety_checker": False, **(parts or {})}
    made = getattr(diffusers, kind)(**{name: part for name, part in every.items() if name in takes})
    made.set_progress_bar_config(disable=True)
    return Stock(made, given)


def stirred(network: torch.nn.Module) -> torch.nn.Module:
    """ControlNet begins as one that adds nothing; this one adds something."""
    torch.manual_seed(2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def configured(network: Any, **changes: Any) -> Any:
    """A network of the same class with another configuration."""
    config = {name: value for name, value in network.config.items() if name != "_use_default_values"}
    return type(network).from_config({**config, **changes}).eval()


def of_unet(pipe: Any) -> torch.nn.Module:
    return stirred(ControlNetModel.from_unet(pipe.unet, **CONTROLLED))


def of_sd3(pipe: Any, extra: int = 0) -> torch.nn.Module:
    made = SD3ControlNetModel.from_transformer(pipe.transformer, num_layers=1, num_extra_conditioning_channels=extra)
    return stirred(made)


def of_flux(pipe: Any) -> torch.nn.Module:
    heads = {"attention_head_dim": 16, "num_attention_heads": 2}
    return stirred(FluxControlNetModel.from_transformer(pipe.transformer, num_layers=1, num_single_layers=0, **heads))


def adapter(factor: int = 2, kind: str = "full_adapter") -> T2IAdapter:
    torch.manual_seed(3)
    return T2IAdapter(3, channels=[8, 16], num_res_blocks=1, downscale_factor=factor, adapter_type=kind)


# Stable Diffusion


def several_controlnets() -> Stock:
    pipe = stable_diffusion()
    nets = {"controlnet": MultiControlNetModel([of_unet(pipe), of_unet(pipe)])}
    given = {"image": [picture(), mask().convert("RGB")], "controlnet_conditioning_scale": [1.0, 0.5]}
    return on(pipe, "StableDiffusionControlNetPipeline", nets, **given)


def t2i_adapter() -> Stock:
    return on(stable_diffusion(), "StableDiffusionAdapterPipeline", {"adapter": adapter()}, image=picture(), **SMALL)


def several_t2i_adapters() -> Stock:
    both = {"adapter": MultiAdapter([adapter(), adapter()])}
    given = {"image": [picture(), picture()], "adapter_conditioning_scale": [0.5, 1.0]}
    return on(stable_diffusion(), "StableDiffusionAdapterPipeline", both, **given, **SMALL)


def pag() -> Stock:
    return on(stable_diffusion(), "StableDiffusionPAGPipeline", {"pag_applied_layers": ["mid"]}, pag_scale=2.0, **SMALL)


def pag_without_guidance() -> Stock:
    return Stock(pag().pipe, {**pag().given, "guidance_scale": 1.0})


def pag_image_to_image() -> Stock:
    given = {"image": picture(), "strength": 0.6, "pag_scale": 2.0}
    return on(stable_diffusion(), "StableDiffusionPAGImg2ImgPipeline", {"pag_applied_layers": ["mid"]}, **given)


def pag_inpainting() -> Stock:
    layers = {"pag_applied_layers": ["mid"]}
    return on(stable_diffusion(), "StableDiffusionPAGInpaintPipeline", layers, **PAINTED, pag_scale=2.0, **SMALL)


def controlnet_pag() -> Stock:
    pipe = stable_diffusion()
    parts = {"controlnet": of_unet(pipe), "pag_applied_layers": ["mid"]}
    return on(pipe, "StableDiffusionControlNetPAGPipeline", parts, image=picture(), pag_scale=2.0)


# Stable Diffusion XL


def xl_controlnet_inpainting() -> Stock:
    pipe = stable_diffusion_xl()
    given = {**PAINTED, "control_image": picture(), "strength": 0.6, **SMALL}
    return on(pipe, "StableDiffusionXLControlNetInpaintPipeline", {"controlnet": of_unet(pipe)}, **given)


def xl_several_controlnets() -> Stock:
    pipe = stable_diffusion_xl()
    nets = {"controlnet": MultiControlNetModel([of_unet(pipe), of_unet(pipe)])}
    return on(pipe, "StableDiffusionXLControlNetPipeline", nets, image=[picture(), picture()])


def xl_controlnet_union() -> Stock:
    pipe = stable_diffusion_xl()
    usual = ControlNetUnionModel.from_unet(pipe.unet, **CONTROLLED)
    net = stirred(configured(usual, num_trans_channel=8, num_trans_head=2, num_proj_channel=8))
    given = {"control_image": [picture()], "control_mode": [1]}
    return on(pipe, "StableDiffusionXLControlNetUnionPipeline", {"controlnet": net}, **given)


def xl_t2i_adapter() -> Stock:
    own = {"adapter": adapter(4, "full_adapter_xl")}
    return on(stable_diffusion_xl(), "StableDiffusionXLAdapterPipeline", own, image=picture(), **SMALL)


def xl_pag() -> Stock:
    return on(
        stable_diffusion_xl(), "StableDiffusionXLPAGPipeline", {"pag_applied_layers": ["mid"]}, pag_scale=2.0, **SMALL
    )


def xl_pag_image_to_image() -> Stock:
    given = {"image": picture(), "strength": 0.6, "pag_scale": 2.0}
    return on(stable_diffusion_xl(), "StableDiffusionXLPAGImg2ImgPipeline", {"pag_applied_layers": ["mid"]}, **given)


def xl_pag_inpainting() -> Stock:
    given = {**PAINTED, "strength": 0.6, "pag_scale": 2.0, **SMALL}
    return on(stable_diffusion_xl(), "StableDiffusionXLPAGInpaintPipeline", {"pag_applied_layers": ["mid"]}, **given)


def xl_controlnet_pag() -> Stock:
    pipe = stable_diffusion_xl()
    parts = {"controlnet": of_unet(pipe), "pag_applied_layers": ["mid"]}
    return on(pipe, "StableDiffusionXLControlNetPAGPipeline", parts, image=picture(), pag_scale=2.0)


# Stable Diffusion 3


def sd3_pag() -> Stock:
    layers = {"pag_applied_layers": ["blocks.1"]}
    return on(stable_diffusion_3(dual=False), "StableDiffusion3PAGPipeline", layers, pag_scale=2.0, **SMALL)


def sd3_several_controlnets() -> Stock:
    pipe = stable_diffusion_3(dual=False)
    nets = {"controlnet": SD3MultiControlNetModel([of_sd3(pipe), of_sd3(pipe)])}
    return on(pipe, "StableDiffusion3ControlNetPipeline", nets, control_image=[picture(), picture()],
              controlnet_conditioning_scale=[1.0, 0.5])  # fmt: skip


def sd3_controlnet_inpainting() -> Stock:
    pipe = stable_diffusion_3(dual=False)
    torch.manual_seed(1)
    wide = configured(pipe.transformer, in_channels=16, out_channels=16)
    parts = {"transformer": wide, "vae": configured(pipe.vae, latent_channels=16)}
    pipe = type(pipe)(**{**pipe.components, **parts})
    given = {"control_image": picture(), "control_mask": mask(), **SMALL}
    return on(pipe, "StableDiffusion3ControlNetInpaintingPipeline", {**parts, "controlnet": of_sd3(pipe, 1)}, **given)


# Flux


def _wider(pipe: Any, channels: int) -> dict[str, Any]:
    """A network that is shown further channels, as Control and Fill have."""
    torch.manual_seed(1)
    return {"transformer": configured(pipe.transformer, in_channels=channels, out_channels=16)}


def flux_control() -> Stock:
    pipe = flux()
    return on(pipe, "FluxControlPipeline", _wider(pipe, 32), control_image=picture(), **SMALL)


def flux_control_image_to_image() -> Stock:
    pipe = flux()
    given = {"image": picture(), "control_image": picture(), "strength": 0.6, **SMALL}
    return on(pipe, "FluxControlImg2ImgPipeline", _wider(pipe, 32), **given)


def flux_control_inpainting() -> Stock:
    pipe = flux()
    given = {**PAINTED, "control_image": picture(), "strength": 0.6, **SMALL}
    return on(pipe, "FluxControlInpaintPipeline", _wider(pipe, 32), **given)


def flux_fill() -> Stock:
    pipe = flux()
    return on(pipe, "FluxFillPipeline", _wider(pipe, 16 + 16 + 4 * 4), **PAINTED, **SMALL)


def flux_kontext() -> Stock:
    given = {"image": picture(), "max_area": 16 * 16, "_auto_resize": False}
    return on(flux(), "FluxKontextPipeline", **given, **SMALL)


def flux_kontext_inpainting() -> Stock:
    given = {**PAINTED, "strength": 0.6, "max_area": 16 * 16, "_auto_resize": False}
    return on(flux(), "FluxKontextInpaintPipeline", **given, **SMALL)


def flux_several_controlnets() -> Stock:
    pipe = flux()
    nets = {"controlnet": FluxMultiControlNetModel([of_flux(pipe), of_flux(pipe)])}
    given = {"control_image": [picture(), picture()], "controlnet_conditioning_scale": [1.0, 0.5]}
    return on(pipe, "FluxControlNetPipeline", nets, **given, control_mode=[None, None], **SMALL)


def flux_controlnet_image_to_image() -> Stock:
    pipe = flux()
    given = {"image": picture(), "control_image": picture(), "strength": 0.6, **SMALL}
    return on(pipe, "FluxControlNetImg2ImgPipeline", {"controlnet": of_flux(pipe)}, **given)


def flux_controlnet_inpainting() -> Stock:
    pipe = flux()
    given = {**PAINTED, "control_image": picture(), "strength": 0.6, **SMALL}
    return on(pipe, "FluxControlNetInpaintPipeline", {"controlnet": of_flux(pipe)}, **given)


# PixArt


def pixart_pag() -> Stock:
    layers = {"pag_applied_layers": ["blocks.0"]}
    given = {"pag_scale": 2.0, "use_resolution_binning": False, **SMALL}
    return on(pixart(diffusers.PixArtSigmaPipeline), "PixArtSigmaPAGPipeline", layers, **given)


FURTHER: tuple[Callable[[], Stock], ...] = (
    several_controlnets,
    t2i_adapter,
    several_t2i_adapters,
    pag,
    pag_without_guidance,
    pag_image_to_image,
    pag_inpainting,
    controlnet_pag,
    xl_controlnet_inpainting,
    xl_several_controlnets,
    xl_controlnet_union,
    xl_t2i_adapter,
    xl_pag,
    xl_pag_image_to_image,
    xl_pag_inpainting,
    xl_controlnet_pag,
    sd3_pag,
    sd3_several_controlnets,
    sd3_controlnet_inpainting,
    flux_control,
    flux_control_image_to_image,
    flux_control_inpainting,
    flux_fill,
    flux_kontext,
    flux_kontext_inpainting,
    flux_several_controlnets,
    flux_controlnet_image_to_image,
    flux_controlnet_inpainting,
    pixart_pag,
)
