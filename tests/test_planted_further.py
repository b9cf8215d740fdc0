"""Heat maps of further pipelines on planted truth; `tests.family_table` tries all of them."""

from __future__ import annotations

import pytest

from tests.further_stock_pipelines import flux_fill, t2i_adapter
from tests.later_stock_pipelines import (
    cogvideox_control,
    qwen_controlnet_inpainting,
    sana_pag,
    sd3_pag_image_to_image,
    wan_vace,
    wan_video_to_video,
    xl_instruct_pix2pix,
    z_image_controlnet,
    z_image_inpainting,
)
from tests.planted_further import map_is_patch
from tests.stock_pipelines import controlnet, image_to_image


@pytest.mark.parametrize(
    "make",
    [
        controlnet,
        t2i_adapter,
        flux_fill,
        xl_instruct_pix2pix,
        sd3_pag_image_to_image,
        qwen_controlnet_inpainting,
        z_image_inpainting,
        z_image_controlnet,
        sana_pag,
        wan_vace,
        wan_video_to_video,
        cogvideox_control,
    ],
)
def test_the_marked_word_s_heat_map_is_the_patch(make):
    assert map_is_patch(make)


def test_another_patch_is_not_the_map(monkeypatch):
    monkeypatch.setattr("tests.planted_further.MarkedWord.prompt_embeds", lambda self, x, text: x)
    assert map_is_patch(controlnet) is False


def test_a_pipeline_that_begins_with_a_picture_says_nothing():
    assert map_is_patch(image_to_image) is None
