"""Stock pipelines of Qwen-Image and Flux.2 on the parts of tiny ones; see `tests.stock_pipelines`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    Flux2KleinInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageEditInpaintPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
)

from tests.stock_pipelines import SMALL, Stock, mask, picture
from tests.tiny_models.flux2 import flux2_dev, flux2_klein
from tests.tiny_models.qwen_image import qwen_image
from tests.tiny_models.qwen_image_edit import qwen_image_edit

GUIDED = {"negative_prompt": "a star", "true_cfg_scale": 3.0}


def qwen_image_to_image() -> Stock:
    return _on(qwen_image(), QwenImageImg2ImgPipeline, **SMALL, **GUIDED, image=picture(), strength=0.6)


def qwen_inpainting() -> Stock:
    given = {"image": picture(), "mask_image": mask(), "strength": 0.6}
    return _on(qwen_image(), QwenImageInpaintPipeline, **SMALL, **GUIDED, **given)


def qwen_controlnet() -> Stock:
    pipe = qwen_image()
    torch.manual_seed(2)
    network = QwenImageControlNetModel.from_transformer(
        pipe.transformer, num_layers=1, attention_head_dim=16, num_attention_heads=2
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # it begins as one that adds nothing
    parts = {"controlnet": network}
    return _on(pipe, QwenImageControlNetPipeline, parts, **SMALL, **GUIDED, control_image=picture())


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


LATER: tuple[Callable[[], Stock], ...] = (
    qwen_image_to_image,
    qwen_inpainting,
    qwen_controlnet,
    qwen_edit,
    qwen_edit_of_several,
    qwen_edit_inpainting,
    flux2_with_references,
    flux2_dev_with_references,
    flux2_with_a_reference_that_is_not_square,
    flux2_inpainting,
)


def _edited(kind: Any, **given: Any) -> Stock:
    made = kind(**qwen_image_edit())
    made.set_progress_bar_config(disable=True)
    return Stock(made, {"height": 256, "width": 192, **GUIDED, **given})


def _on(pipe: Any, kind: Any, parts: Mapping[str, Any] | None = None, **given: Any) -> Stock:
    made = kind(**{**pipe.components, **(parts or {})})
    made.set_progress_bar_config(disable=True)
    return Stock(made, given)
