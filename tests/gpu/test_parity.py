"""On the GPU too a run is the stock pipeline's, bit for bit, in every precision, by sample and by attach."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.families import FAMILIES
from tests.stock_pipelines import SMALL, Stock, attached, called, sampled

pytestmark = pytest.mark.gpu

SHOWN = ("Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LOOKING = {
    "no hooks": (),
    "maps of all tokens": (sdprobe.AttentionMaps(),),
    "maps of a word": (sdprobe.AttentionMaps("circle"),),
    "every observer": (
        sdprobe.AttentionMaps(keep=("step", "layer", "head")),
        sdprobe.SelfAttentionMaps(),
        sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised")),
        sdprobe.Statistics(),
    ),
}


def stock_of(family, device, dtype):
    pipe = FAMILIES[family]().to(device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return Stock(pipe, SMALL)


def same_pictures(some, others):
    return [picture.tobytes() for picture in some] == [picture.tobytes() for picture in others]


@pytest.mark.parametrize("looking", LOOKING)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", SHOWN)
def test_a_run_is_the_stock_pipeline(device, family, dtype, looking):
    stock = stock_of(family, device, dtype)
    latents, pictures = called(stock, output_type="latent"), called(stock, output_type="pil")
    if family.startswith("Flux"):
        latents = stock.pipe._unpack_latents(latents, 16, 16, stock.pipe.vae_scale_factor)
    assert latents.isfinite().all()
    assert latents.dtype == dtype
    for run in (sampled(stock, *LOOKING[looking], **SMALL), attached(stock, *LOOKING[looking], output_type="pil")):
        assert torch.equal(run.latents, latents)
        assert same_pictures(run.images, pictures)


@pytest.mark.parametrize("family", SHOWN)
def test_attach_leaves_what_the_pipeline_returns(device, family):
    stock = stock_of(family, device, torch.float16)
    expected = called(stock)
    with sdprobe.attach(stock.pipe, sdprobe.AttentionMaps()):
        assert torch.equal(called(stock), expected)
