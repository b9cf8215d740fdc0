"""A run never makes the CPU wait for the GPU by itself: what waits is the pipeline's own."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.benchmarks.synchronisations import counted, synchronisations
from tests.gpu.test_parity import SHOWN, stock_of
from tests.stock_pipelines import SMALL, sampled

pytestmark = pytest.mark.gpu

LOOKING = {
    "no hooks": (),
    "maps of all tokens": (sdprobe.AttentionMaps(),),
    "maps of a word": (sdprobe.AttentionMaps("circle"),),
    "latents": (sdprobe.LatentRecorder(),),
    "activations": (sdprobe.Activations("*attn2"),),
    "statistics": (sdprobe.Statistics(),),
}


@pytest.mark.parametrize("looking", LOOKING)
@pytest.mark.parametrize("family", SHOWN)
def test_no_line_of_ours_waits_for_the_gpu(cuda, family, looking):
    stock = stock_of(family, cuda, torch.float16)
    sampled(stock, *LOOKING[looking], **SMALL)  # what is made once for a model
    places = synchronisations(lambda: sampled(stock, *LOOKING[looking], **SMALL))
    own = [place for place in places if place.is_own]
    assert not own, counted(own)


def test_a_wait_is_found(cuda):
    """Or the test above would say nothing."""
    assert synchronisations(lambda: torch.ones(1, device=cuda).item())
