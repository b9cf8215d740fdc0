"""`TokenPlaces`: which positions are the image's and which the text's, in the tensors of each family."""

import pytest
import torch

from sdprobe.model.denoiser.token_layout import Layout
from sdprobe.model.denoiser.token_places import NOWHERE, TokenPlaces, heads_of

UNET = TokenPlaces(Layout({64: (8, 8), 16: (4, 4)}), {"mid.attn1": "self", "mid.attn2": "cross"})
FLUX = TokenPlaces(Layout({16: (4, 4)}, text_first=True), {"blocks.0.attn": "joint"})
SD3 = TokenPlaces(Layout({16: (4, 4)}), {"blocks.0.attn": "joint"})
LUMINA = TokenPlaces(
    Layout({16: (4, 4)}, text_first=True, one_stream=True),
    {"context_refiner.0.attn": "text", "noise_refiner.0.attn": "self", "layers.0.attn": "joint"},
)


@pytest.mark.parametrize(
    ("places", "name", "stream", "shape", "placed"),
    [
        (UNET, "down", "hidden", (2, 8, 5, 7), ("hidden", (5, 7), slice(None), None)),
        (UNET, "down", "skip 1", (2, 8, 4, 4), ("skip 1", (4, 4), slice(None), None)),
        (UNET, "mid.attn2", "hidden", (2, 64, 8), ("hidden", (8, 8), slice(0, 64), None)),
        (UNET, "mid.attn2", "text", (2, 16, 8), ("text", None, NOWHERE, slice(0, 16))),
        (UNET, "mid.attn2.to_k", "hidden", (2, 16, 8), ("text", None, NOWHERE, slice(0, 16))),
        (UNET, "mid.attn1.to_k", "hidden", (2, 16, 8), ("hidden", (4, 4), slice(0, 16), None)),
        (UNET, "time_embedding", "hidden", (2, 8), ("hidden", None, NOWHERE, None)),
        (UNET, "down", "time", (2, 8), ("time", None, NOWHERE, None)),
        (UNET, "down", "hidden", (2, 15, 8), ("hidden", None, NOWHERE, None)),
        (UNET, "encoder_hid_proj", "hidden", (2, 1, 4, 16), ("image prompt", None, NOWHERE, None)),
        (
            UNET,
            "encoder_hid_proj.layers.0",
            "hidden",
            (2, 4, 8),
            ("image prompt", None, NOWHERE, None),
        ),
        (FLUX, "blocks.0", "hidden", (2, 16, 8), ("image", (4, 4), slice(0, 16), None)),
        (FLUX, "blocks.0", "text", (2, 16, 8), ("text", None, NOWHERE, slice(0, 16))),
        (FLUX, "blocks.0.ff_context.net.0", "hidden", (2, 16, 8), ("text", None, NOWHERE, slice(0, 16))),
        (FLUX, "single.0.proj_mlp", "hidden", (2, 21, 8), ("hidden", (4, 4), slice(5, 21), slice(0, 5))),
        (SD3, "single.0.proj_mlp", "hidden", (2, 21, 8), ("hidden", (4, 4), slice(0, 16), slice(16, 21))),
        (LUMINA, "context_refiner.0.attn.to_k", "hidden", (2, 16, 8), ("text", None, NOWHERE, slice(0, 16))),
        (LUMINA, "context_refiner.0.attn", "text", (2, 16, 8), ("context", None, NOWHERE, slice(0, 16))),
        (LUMINA, "noise_refiner.0.attn.to_k", "hidden", (2, 16, 8), ("image", (4, 4), slice(0, 16), None)),
        (LUMINA, "noise_refiner.0.attn", "text", (2, 16, 8), ("context", (4, 4), slice(0, 16), None)),
        (LUMINA, "layers.0.attn.to_v", "hidden", (2, 21, 8), ("hidden", (4, 4), slice(5, 21), slice(0, 5))),
        (LUMINA, "layers.0.attn", "text", (2, 21, 8), ("context", (4, 4), slice(5, 21), slice(0, 5))),
        (SD3, "blocks.0.attn.norm_q", "hidden", (2, 4, 16, 8), ("hidden", None, NOWHERE, None)),
    ],
)
def test_the_positions_of_image_and_text(places, name, stream, shape, placed):
    assert places.of(name, stream, torch.zeros(shape)) == placed


def test_the_width_is_the_heads_side_by_side_where_attention_says_so():
    attention = torch.nn.Module()
    attention.heads = 4
    modules = {"a.attn": attention, "a": torch.nn.Module()}
    x = torch.zeros(1, 3, 8)
    assert heads_of(modules, "a.attn.to_out.0", "input", x) == 4
    assert heads_of(modules, "a.attn.to_q", "output", x) == 4
    assert heads_of(modules, "a.attn.to_out.0", "output", x) == 0
    assert heads_of(modules, "a.attn.to_q", "input", x) == 0
    assert heads_of(modules, "a.attn", "output", x) == 0
    assert heads_of(modules, "a.attn.to_q", "output", x[..., :6]) == 0


def test_attention_of_the_text_alone_has_no_image():
    assert Layout({16: (4, 4)}).of("text", 16, 16) == (None, slice(0, 0), slice(0, 16))
