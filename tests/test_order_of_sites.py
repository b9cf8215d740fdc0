"""Sites of several hooks stand in the order in which the denoiser passes them."""

from __future__ import annotations

from fnmatch import filter as filter_names

import pytest

import sdprobe
from sdprobe import ActivationKey, Activations, AttentionMaps, AttentionRecorder, compare, on, only
from sdprobe.runs.comparison.order_of_sites import joined, order_of_sites
from tests.families import ASKED, FAMILIES
from tests.laws.strategies import run
from tests.tiny import stable_diffusion
from tests.unknown_pipelines import attached, video

EVERYWHERE = (
    *("down_blocks*", "mid_block*", "up_blocks*", "transformer_blocks*", "single_transformer_blocks*", "blocks*"),
    *("layers*", "*refiner*", "txt_in", "patch_embedding", "context_embedder"),
)


def recorded(family, *patterns):
    """A run that recorded attention and what some modules give, and the sites as it passed them."""
    passed: dict[str, None] = {}
    model = sdprobe.load(FAMILIES[family]())
    there = tuple(own for own in patterns if filter_names(model.modules, own))

    class Attentions(sdprobe.Observer):
        kinds = ("cross", "joint")

        def attention(self, attn, site):
            passed[site.name] = None

    class Outputs(sdprobe.Observer):
        modules = there
        strict = False

        def activation(self, x, site):
            passed[str(ActivationKey.of(site))] = None

    maps, acts = AttentionMaps(keep=("step", "layer")), Activations(there, rows="cond")
    settings = {"steps": 1 + (family == "LTX-Video"), "height": 16, "width": 16} | ASKED.get(family, {})
    result = run(model, Attentions(), Outputs(), maps, acts, **settings)
    assert len(passed) > len(result[maps].sums) > 0
    return result, list(passed)


@pytest.mark.parametrize(
    "family",
    ["Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev", "PixArt-α", "Z-Image"],
)
def test_two_hooks_are_in_the_order_of_one(family):
    """Also of modules that the denoiser passes in another order than their names tell."""
    result, passed = recorded(family, *EVERYWHERE)
    assert list(order_of_sites([result])) == passed


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILIES)
def test_two_hooks_are_in_the_order_of_one_in_every_family(family):
    result, passed = recorded(family, *EVERYWHERE)
    assert list(order_of_sites([result])) == passed


def test_the_order_is_kept_in_a_folder(tmp_path):
    result, passed = recorded("Z-Image", "noise_refiner.*")
    assert list(order_of_sites([sdprobe.open(result.save(tmp_path / "run"))])) == passed


@pytest.mark.parametrize(
    "family", ["Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev", "PixArt-α"]
)
@pytest.mark.parametrize("pattern", ["*attn*", "*block*", "*ff"])
def test_names_decide_where_a_run_does_not_say_the_order(family, pattern):
    """Of the modules within and around attention, of whole blocks with all in them, and of the last of a block."""
    result, passed = recorded(family, pattern)
    result.coverage.passed.clear()  # as in a folder of an older version
    assert list(order_of_sites([result])) == passed


def test_a_refiner_parts_before_the_attention_after_it():
    model = sdprobe.load(FAMILIES["Z-Image"]())
    hooks = (AttentionMaps(keep=("step", "layer")), Activations("noise_refiner.0"))
    change = only(on("activation", double, modules="noise_refiner.0"), steps=[1])
    size = {"height": 16, "width": 16}
    found = compare(run(model, *hooks, **size), run(model, change, *hooks, **size))
    assert found.parting.at is not None
    assert (found.parting.at.step, found.parting.at.site) == (1, "noise_refiner.0 (output, image)")


def test_unknown_pipelines_keep_their_order():
    site = "transformer_blocks.0.attn2"
    result, _ = attached(video(), AttentionRecorder(rows=None), Activations(site, sides=["input", "output"]))
    passed = list(result.coverage.passed)
    at = [passed.index(name) for name in (f"{site} (input, hidden)", site, f"{site} (output, hidden)")]
    assert at == sorted(at)


def double(x):
    return 2 * x


def test_joined_keeps_both_orders():
    first, second = ["b", "a", "d"], ["c", "a", "e"]
    found = joined(first, second)
    for own in (first, second):
        assert [name for name in found if name in own] == own


def test_nothing_recorded():
    assert order_of_sites([run(sdprobe.load(stable_diffusion()))]) == {}
