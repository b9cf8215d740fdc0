"""The parts of a network that a sweep goes over, in every family."""

import pytest

import sdprobe
from sdprobe.experiments.parts_of_model import attention_of, blocks_of, cross_attention_of, named_parts
from tests.families import FAMILIES


@pytest.mark.parametrize("family", ["Stable Diffusion XL", "Stable Diffusion 3", "Flux.1 dev", "PixArt-Σ"])
def test_every_family_has_blocks_and_attention_to_the_text(family):
    model = sdprobe.load(FAMILIES[family]())
    assert set(blocks_of(model)) <= set(model.modules)
    assert len(blocks_of(model)) > 0
    joint = family in ("Stable Diffusion 3", "Flux.1 dev")
    assert bool(cross_attention_of(model)) != joint
    assert {model.attention_kind(model.modules[name]) for name in attention_of(model)} == {
        "joint" if joint else "cross"
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_of_attention_lies_in_a_block(family):
    model = sdprobe.load(FAMILIES[family]())
    blocks = tuple(f"{name}." for name in blocks_of(model))
    sites = [name for name, module in model.modules.items() if model.attention_kind(module)]
    assert sites
    assert [name for name in sites if not name.startswith(blocks)] == []


def test_blocks_stand_in_the_order_of_the_network(embedded):
    places = [name.split("_")[0] for name in blocks_of(embedded)]
    assert list(dict.fromkeys(places)) == ["down", "mid", "up"]
    assert list(dict.fromkeys(name.split("_")[0] for name in cross_attention_of(embedded))) == ["down", "mid", "up"]


def test_patterns_that_fit_nothing_are_refused(tiny):
    with pytest.raises(ValueError, match=r"'mid_blok' fits no module of the denoiser; .*mid_block"):
        named_parts(["mid_blok"], tiny)
    with pytest.raises(ValueError, match="at least one module"):
        named_parts([], tiny)
    assert named_parts("mid_block", tiny) == {"mid_block": ("mid_block",)}
