"""Still further stock pipelines of known families; see `tests.further_stock_pipelines`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    ControlNetUnionModel,
    Flux2KleinInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageEditInpaintPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    SanaControlNetModel,
    WanPipeline,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
    ZImageControlNetModel,
)

from tests.families import stable_diffusion_3, stable_diffusion_xl
from tests.further_stock_pipelines import CONTROLLED, PAINTED, configured, of_unet, on, stirred
from tests.stock_pipelines import SMALL, Stock, mask, picture
from tests.tiny import stable_diffusion
from tests.tiny_models.cogvideox import CHANNELS, cogvideox
from tests.tiny_models.flux2 import flux2_dev, flux2_klein
from tests.tiny_models.qwen_image import qwen_image
from tests.tiny_models.qwen_image_edit import qwen_image_edit
from tests.tiny_models.sana import sana
from tests.tiny_models.wan import LATENTS, transformer, wan
from tests.tiny_models.z_image import z_image

MID = {"pag_applied_layers": ["mid"]}
GUIDED = {"negative_prompt": "a star", "true_cfg_scale": 3.0}
VIDEO = {"video": [picture().rotate(20 * frame) for frame in range(5)], "strength": 0.7, **SMALL}
"""Of three steps, two: as many as the scheduler of Wan keeps, which with fewer keeps something of the call before."""


# Qwen-Image and Flux.2


def qwen_image_to_image() -> Stock:
    return _on(qwen_image(), QwenImageImg2ImgPipeline, **SMALL, **GUIDED, image=picture(), strength=0.6)


def qwen_inpainting() -> Stock:
    given = {"image": picture(), "mask_image": mask(), "strength": 0.6}
    return _on(qwen_image(), QwenImageInpaintPipeline, **SMALL, **GUIDED, **given)


def of_qwen(pipe: Any, extra: int = 0) -> torch.nn.Module:
    torch.manual_seed(2)
    heads = {"attention_head_dim": 16, "num_attention_heads": 2, "extra_condition_channels": extra}
    network = QwenImageControlNetModel.from_transformer(pipe.transformer, num_layers=1, **heads)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # it begins as one that adds nothing
    return network


def qwen_controlnet() -> Stock:
    pipe = qwen_image()
    parts = {"controlnet": of_qwen(pipe)}
    return _on(pipe, QwenImageControlNetPipeline, parts, **SMALL, **GUIDED, control_image=picture())


def qwen_controlnet_inpainting() -> Stock:
    pipe = qwen_image()
    own = {"controlnet": of_qwen(pipe, extra=4)}  # of a mask, one for each of a token's four places
    given = {"control_image": picture(), "control_mask": mask(), **GUIDED, **SMALL}
    return on(pipe, "QwenImageControlNetInpaintPipeline", own, **given)


def qwen_edit() -> Stock:
    return _edited(QwenImageEditPipeline, image=picture(96))


def qwen_edit_of_several() -> Stock:
    return _edited(QwenImageEditPlusPipeline, image=[picture(96), picture(64).resize((96, 64))])


def qwen_edit_inpainting() -> Stock:
    return _edited(QwenImageEditInpaintPipeline, image=picture(96), mask_image=mask().resize((96, 96)), strength=0.6)


def flux2_with_references() -> Stock:
    return _on(flux2_klein(), type(flux2_klein()), **SMALL, image=[picture(64)])


def flux2_dev_with_references() -> Stock:
    pipe = flux2_dev()
    return _on(pipe, type(pipe), **SMALL, image=[picture(64)])


def flux2_with_a_reference_that_is_not_square() -> Stock:
    """Half as many places as the usual size has: together with those of the picture, as many."""
    pipe = flux2_klein()
    return _on(pipe, type(pipe), image=[picture(64).resize((128, 64))])


def flux2_inpainting() -> Stock:
    given = {"image": picture(64), "mask_image": mask().resize((64, 64)), "strength": 0.6}
    return _on(flux2_klein(), Flux2KleinInpaintPipeline, **given)


def _edited(kind: Any, **given: Any) -> Stock:
    made = kind(**qwen_image_edit())
    made.set_progress_bar_config(disable=True)
    return Stock(made, {"height": 256, "width": 192, **GUIDED, **given})


def _on(pipe: Any, kind: Any, parts: Mapping[str, Any] | None = None, **given: Any) -> Stock:
    made = kind(**{**pipe.components, **(parts or {})})
    made.set_progress_bar_config(disable=True)
    return Stock(made, given)


# Z-Image


def of_z_image(channels: int) -> torch.nn.Module:
    """A ControlNet whose blocks before the text are its own."""
    made = ZImageControlNetModel(
        control_layers_places=[0, 1],
        control_refiner_layers_places=[0],
        control_in_dim=channels,
        add_control_noise_refiner="control_noise_refiner",
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    return stirred(made).eval()


def z_image_inpainting() -> Stock:
    return on(z_image(), "ZImageInpaintPipeline", **PAINTED, strength=0.6, **SMALL)


def z_image_controlnet() -> Stock:
    return on(z_image(), "ZImageControlNetPipeline", {"controlnet": of_z_image(4)}, control_image=picture(), **SMALL)


def z_image_controlnet_inpainting() -> Stock:
    own = {"controlnet": of_z_image(4 + 1 + 4)}  # of the picture to follow, the mask and what is kept
    return on(z_image(), "ZImageControlNetInpaintPipeline", own, **PAINTED, control_image=picture(), **SMALL)


# Stable Diffusion


def controlnet_pag_inpainting() -> Stock:
    pipe = stable_diffusion()
    given = {**PAINTED, "control_image": picture(), "pag_scale": 2.0, **SMALL}
    return on(pipe, "StableDiffusionControlNetPAGInpaintPipeline", {"controlnet": of_unet(pipe), **MID}, **given)


def sd3_pag_image_to_image() -> Stock:
    given = {"image": picture(), "strength": 0.6, "pag_scale": 2.0, **SMALL}
    layers = {"pag_applied_layers": ["blocks.1"]}
    return on(stable_diffusion_3(dual=False), "StableDiffusion3PAGImg2ImgPipeline", layers, **given)


# Stable Diffusion XL


def xl_controlnet_pag_image_to_image() -> Stock:
    pipe = stable_diffusion_xl()
    given = {"image": picture(), "control_image": picture(), "strength": 0.6, "pag_scale": 2.0}
    return on(pipe, "StableDiffusionXLControlNetPAGImg2ImgPipeline", {"controlnet": of_unet(pipe), **MID}, **given)


def of_several_kinds(pipe: Any) -> torch.nn.Module:
    usual = ControlNetUnionModel.from_unet(pipe.unet, **CONTROLLED)
    return stirred(configured(usual, num_trans_channel=8, num_trans_head=2, num_proj_channel=8))


def xl_controlnet_union_image_to_image() -> Stock:
    pipe = stable_diffusion_xl()
    given = {"image": picture(), "control_image": [picture()], "control_mode": [1], "strength": 0.6}
    return on(pipe, "StableDiffusionXLControlNetUnionImg2ImgPipeline", {"controlnet": of_several_kinds(pipe)}, **given)


def xl_controlnet_union_inpainting() -> Stock:
    pipe = stable_diffusion_xl()
    given = {**PAINTED, "control_image": [picture()], "control_mode": [1], "strength": 0.6, **SMALL}
    return on(pipe, "StableDiffusionXLControlNetUnionInpaintPipeline", {"controlnet": of_several_kinds(pipe)}, **given)


def xl_instruct_pix2pix() -> Stock:
    pipe = stable_diffusion_xl()
    torch.manual_seed(1)
    given = {"image": picture(), "image_guidance_scale": 1.5, **SMALL}
    own = {"unet": configured(pipe.unet, in_channels=8)}
    return on(pipe, "StableDiffusionXLInstructPix2PixPipeline", own, **given)


# Sana


def sana_pag() -> Stock:
    layers = {"pag_applied_layers": ["transformer_blocks.0"]}
    given = {"pag_scale": 2.0, "use_resolution_binning": False, "height": 32, "width": 32}
    return on(sana(), "SanaPAGPipeline", layers, **given)


def sana_controlnet() -> Stock:
    pipe = sana()
    torch.manual_seed(2)
    names = SanaControlNetModel.__init__.__annotations__
    shape = {name: value for name, value in pipe.transformer.config.items() if name in names}
    network = stirred(SanaControlNetModel(**{**shape, "num_layers": 1})).eval()
    given = {"control_image": picture(32), "use_resolution_binning": False, "height": 32, "width": 32}
    return on(pipe, "SanaControlNetPipeline", {"controlnet": network}, **given)


# Videos


class VideoToVideo(WanVideoToVideoPipeline):
    """The pipeline, with the same method as text to video has to encode a text: its own fails without ftfy."""

    _get_t5_prompt_embeds = WanPipeline._get_t5_prompt_embeds


class Vace(WanVACEPipeline):
    """The same."""

    _get_t5_prompt_embeds = WanPipeline._get_t5_prompt_embeds


def wan_video_to_video() -> Stock:
    parts = wan().components
    made = VideoToVideo(**{name: parts[name] for name in parts if not name.endswith("_2")})
    made.set_progress_bar_config(disable=True)
    return Stock(made, VIDEO)


def wan_vace() -> Stock:
    """With a film, half of each of whose pictures is to be made anew."""
    torch.manual_seed(1)
    usual = {name: value for name, value in transformer().config.items() if not name.startswith("_")}
    shown = {"vace_layers": [0], "vace_in_channels": 2 * LATENTS + 4}
    network = WanVACETransformer3DModel(**{**usual, **shown}).eval()
    made = Vace(**{**wan().components, "transformer": network})
    made.set_progress_bar_config(disable=True)
    return Stock(made, {"video": VIDEO["video"], "mask": [mask()] * 5, "num_frames": 5, **SMALL})


def cogvideox_video_to_video() -> Stock:
    return on(cogvideox(), "CogVideoXVideoToVideoPipeline", **VIDEO)


def cogvideox_control() -> Stock:
    pipe = cogvideox()
    torch.manual_seed(1)
    own = {"transformer": configured(pipe.transformer, in_channels=2 * CHANNELS)}
    return on(pipe, "CogVideoXFunControlPipeline", own, control_video=VIDEO["video"], **SMALL)


LATER: tuple[Callable[[], Stock], ...] = (
    qwen_image_to_image,
    qwen_inpainting,
    qwen_controlnet,
    qwen_controlnet_inpainting,
    qwen_edit,
    qwen_edit_of_several,
    qwen_edit_inpainting,
    flux2_with_references,
    flux2_dev_with_references,
    flux2_with_a_reference_that_is_not_square,
    flux2_inpainting,
    z_image_inpainting,
    z_image_controlnet,
    z_image_controlnet_inpainting,
    controlnet_pag_inpainting,
    sd3_pag_image_to_image,
    xl_controlnet_pag_image_to_image,
    xl_controlnet_union_image_to_image,
    xl_controlnet_union_inpainting,
    xl_instruct_pix2pix,
    sana_pag,
    sana_controlnet,
    wan_video_to_video,
    wan_vace,
    cogvideox_video_to_video,
    cogvideox_control,
)
