"""Sites of several hooks stand in the order in which the denoiser passes them."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe import ActivationKey, Activations, AttentionMaps
from sdprobe.runs.comparison.order_of_sites import joined, order_of_sites
from tests.families import FAMILIES
from tests.laws.strategies import run
from tests.tiny import stable_diffusion


@pytest.mark.parametrize(
    "family", ["Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev", "PixArt-α"]
)
@pytest.mark.parametrize("pattern", ["*attn*", "*block*", "*ff"])
def test_two_hooks_are_in_the_order_of_one(family, pattern):
    """Of the modules within and around attention, of whole blocks with all in them, and of the last of a block."""
    passed: dict[str, None] = {}

    class Attentions(sdprobe.Observer):
        kinds = ("cross", "joint")

        def attention(self, attn, site):
            passed[site.name] = None

    class Outputs(sdprobe.Observer):
        modules = (pattern,)
        strict = False

        def activation(self, x, site):
            passed[str(ActivationKey.of(site))] = None

    model = sdprobe.load(FAMILIES[family]())
    maps, acts = AttentionMaps(keep=("step", "layer")), Activations(pattern)
    result = run(model, Attentions(), Outputs(), maps, acts, steps=1)
    assert list(order_of_sites([result])) == list(passed)
    assert len(passed) > len(result[maps].sums) > 0


def test_joined_keeps_both_orders():
    first, second = ["b", "a", "d"], ["c", "a", "e"]
    found = joined(first, second)
    for own in (first, second):
        assert [name for name in found if name in own] == own


def test_nothing_recorded():
    assert order_of_sites([run(sdprobe.load(stable_diffusion()))]) == {}
