"""What a recording will hold, as arithmetic before the run, is what it holds after."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import AttentionMaps
from sdprobe.observe.attention_sums import Key
from sdprobe.observe.expected_sums import ExpectedSums
from sdprobe.observe.memory_budget import SumSize
from tests.families import ALL, ASKED, FAMILIES
from tests.laws.strategies import run


class Sites(sdprobe.Observer):
    """The sites that hooks are told of."""

    kinds = ("cross", "joint")

    def start(self, run):
        self.sites = []

    def expect_sites(self, sites):
        self.sites = sites

    def attention(self, attn, site):
        pass


keeps = st.lists(st.sampled_from(["step", "layer", "head"]), unique=True)
words = st.none() | st.sets(st.sampled_from(["a", "red", "circle", 0, 5]), min_size=1).map(list)
grids = st.none() | st.sets(st.sampled_from([(8, 8), (4, 4), (8, 12), (4, 6)]), min_size=1).map(list)
dtypes = st.sampled_from(["float32", "float16", "bfloat16"])


@given(
    keep=keeps,
    words=words,
    rows=st.sampled_from(["cond", "uncond", "both"]),
    grids=grids,
    dtype=dtypes,
    steps=st.integers(1, 4),
    images=st.integers(1, 2),
    width=st.sampled_from([16, 24]),
)
def test_what_was_expected_is_held(tiny, keep, words, rows, grids, dtype, steps, images, width):
    if grids is not None:
        grids = [grid for grid in grids if (grid[1] == grid[0]) == (width == 16)] or None
    maps, sites = AttentionMaps(words, keep=keep, rows=rows, grids=grids, dtype=dtype), Sites()
    settings = {"steps": steps, "images_per_prompt": images, "width": width, "height": 16}
    result = run(tiny, maps, sites, negative_prompt="a red circle", **settings)
    own = result[maps]
    expected = own.expected(result[sites].sites)
    assert expected.held_bytes == own.held_bytes == sum(total.nbytes for total in own.sums.values()) > 0
    assert {key: size.numbers for key, size in expected.sizes.items()} == {k: own.sums[k].numel() for k in own.sums}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("keep", [(), ("step", "layer", "head")], ids=["sums", "everything"])
def test_what_was_expected_is_held_in_every_family(name, keep):
    model = sdprobe.load(FAMILIES[name]())
    maps, sites = AttentionMaps(keep=keep), Sites()
    result = run(model, maps, sites, **{"steps": 3} | ASKED.get(name, {}))
    assert result[maps].expected(result[sites].sites).held_bytes == result[maps].held_bytes


def test_sums_that_nobody_asked_for_are_expected_only_where_they_are_small(tiny, monkeypatch):
    for unasked, apart in ((4_000_000, {"layer", "head"}), (1000, set())):
        monkeypatch.setattr("sdprobe.observe.attention_maps.UNASKED_BYTES", unasked)
        maps, sites = AttentionMaps(), Sites()
        result = run(tiny, maps, sites)
        assert result[maps].sums.apart == apart
        assert result[maps].expected(result[sites].sites).held_bytes == result[maps].held_bytes


class Most(AttentionMaps):
    """Notes the most bytes held at any call."""

    def start(self, run):
        super().start(run)
        self.most = 0

    def attention(self, attn, site):
        super().attention(attn, site)
        self.most = max(self.most, self.held_bytes)


@given(keep=keeps.map(lambda keep: {*keep, "layer", "head"}), dtype=dtypes, steps=st.integers(1, 4))
def test_the_most_that_is_expected_is_the_most_that_is_held(tiny, keep, dtype, steps):
    maps, sites = Most(keep=tuple(keep), dtype=dtype), Sites()
    result = run(tiny, maps, sites, steps=steps)
    assert result[maps].expected(result[sites].sites).most_bytes == result[maps].most


def sizes(steps=3, layers=2, by_step=True):
    size = SumSize(1, 2, (4, 4), 5)
    return {
        Key("cond", step if by_step else None, str(layer), (4, 4), 0): size
        for step in range(steps if by_step else 1)
        for layer in range(layers)
    }


def test_the_arithmetic_names_every_factor():
    every = ExpectedSums(sizes(), torch.float32)
    expected = "  3 steps × 2 layers × 1 image × 2 heads × 16 positions (4×4) × 5 tokens × 4 bytes = 3.8 kB"
    assert every.arithmetic() == expected
    assert every.most_bytes == every.held_bytes == 3 * 2 * 1 * 2 * 16 * 5 * 4


def test_half_precision_counts_the_step_under_way_in_full():
    half = ExpectedSums(sizes(), torch.float16)
    assert half.held_bytes == 3 * 2 * 160 * 2
    assert half.most_bytes == half.held_bytes + 2 * 160 * 2
    assert half.arithmetic().splitlines()[1] == "  and 640 bytes more for the step under way, in float32"


def test_sums_over_the_steps_are_in_full_precision_until_the_end():
    half = ExpectedSums(sizes(by_step=False), torch.float16)
    assert (half.held_bytes, half.most_bytes) == (2 * 160 * 2, 2 * 160 * 4)
    assert half.arithmetic() == (
        "  2 layers × 1 image × 2 heads × 16 positions (4×4) × 5 tokens × 4 bytes = 1.3 kB\n"
        "  in float32, until the run ends"
    )


def test_two_devices_have_a_part_each():
    half = ExpectedSums(sizes(), torch.float16)
    assert half.summed_bytes == 2 * 160 * 4
    assert half.arithmetic(kept=False) == (
        "  1 step × 2 layers × 1 image × 2 heads × 16 positions (4×4) × 5 tokens × 4 bytes = 1.3 kB\n"
        "  for the step under way, in float32"
    )
    assert half.arithmetic(summed=False).endswith("× 2 bytes = 1.9 kB")


def test_sums_that_are_no_product_are_counted_one_by_one():
    some = sizes()
    del some[Key("cond", 1, "1", (4, 4), 0)]
    assert ExpectedSums(some, torch.float32).arithmetic().startswith("  5 sums × 1 image × 2 heads")
