"""Heat maps made on the GPU: they are those of a CPU, and take hardly any memory beside the run."""

from __future__ import annotations

import gc

import pytest
import torch

import sdprobe
from tests.benchmarks.models import MEDIUM, PROMPT
from tests.families import FAMILIES
from tests.gpu.test_parity import SHOWN
from tests.laws.strategies import run

pytestmark = pytest.mark.gpu

PEAK_BYTES = 10_000_000
TOLERANCE = 1e-4


@pytest.mark.parametrize("family", SHOWN)
def test_maps_are_those_of_a_cpu(device, single_precision, family):
    """Of the same model, with the same noise."""
    found = []
    for where in ("cpu", device):
        maps = sdprobe.AttentionMaps()
        result = run(sdprobe.load(FAMILIES[family](), device=where), maps, prompt="a red circle")
        heats = result[maps].heat_maps()
        assert {heat.values.device.type for heat in heats.values()} == {torch.device(where).type}
        found.append({word: heat.values.cpu() for word, heat in heats.items()})
    expected, ours = found
    assert ours.keys() == expected.keys()
    for word, values in ours.items():
        torch.testing.assert_close(values, expected[word], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["mean", "daam"])
def test_one_map_by_either_method(device, method):
    maps = sdprobe.AttentionMaps(keep=("layer", "head"))
    heat = run(sdprobe.load(device=device), maps)[maps].heat_map("circle", method=method)
    assert heat.values.shape == (16, 16)
    assert heat.values.isfinite().all()
    assert heat.to_image().size  # figures are drawn on the CPU


def test_self_attention_maps_are_those_of_a_cpu(device, single_precision):
    found = []
    for where in ("cpu", device):
        maps = sdprobe.SelfAttentionMaps()
        found.append(run(sdprobe.load(device=where), maps)[maps].heat_map((8, 8)).values.cpu())
    torch.testing.assert_close(*found, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("words", [None, ["circle", "square"]], ids=["all tokens", "two words"])
def test_maps_add_hardly_any_memory(cuda, words):
    """At the sites of Stable Diffusion 1.5 at 512²: the peak of a run over that of one that keeps nothing."""
    model = sdprobe.load(MEDIUM.model(), dtype=torch.float16, device=cuda)

    def peak(*hooks):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run(model, *hooks, prompt=PROMPT, height=512, width=512)
        return torch.cuda.max_memory_allocated()

    peak(sdprobe.AttentionMaps(words))  # what is compiled or chosen once
    assert peak(sdprobe.AttentionMaps(words)) - peak() <= PEAK_BYTES
