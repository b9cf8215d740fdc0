"""Caches of diffusers in the newer families, each held to its cell of the table in docs/concepts/as_you_run_it.md."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.model.denoiser.skipped_by_cache import cache_of
from tests.caches import APPLIED, CONFIGURED
from tests.newer_families import NEWER, at_night, attached, latents_of, run, stock
from tests.test_as_people_run_it import rows
from tests.test_cache_states import Asks, Squares
from tests.test_skipped_by_cache import Ran
from tests.ways_of_running import denoisers

CACHES = (
    *("FirstBlockCache", "PyramidAttentionBroadcast", "FasterCache", "MagCache"),
    *("TaylorSeerCache", "TaylorSeerCache, lite"),
)
"""The columns of the table."""

TABLE = {
    (cache, family): cell
    for families, *cells in rows("Caches in newer families")
    for family in families.split(", ")
    for cache, cell in zip(CACHES, cells, strict=True)
}
ONE_CALL = {"Sana": "BCHW", "AuraFlow": "BCHW", "CogVideoX": "BFCHW", "CogVideoX 1.5": "BFCHW"}
"""Families whose denoiser is called once for the rows of both prompts, with the layout of these."""


def cached(cache, family):
    """A tiny pipeline with a cache in its denoiser, or in both, as a user puts it there."""
    pipe = NEWER[family]()
    pipe.set_progress_bar_config(disable=True)
    tells = hasattr(type(pipe), "current_timestep")
    config = CONFIGURED[cache](lambda: pipe.current_timestep if tells else 500, family not in ONE_CALL)
    if cache == "FasterCache":
        config.tensor_format = ONE_CALL.get(family, "BCHW")
    for network in denoisers(pipe):
        if hasattr(network, "enable_cache"):
            network.enable_cache(config)
        else:
            APPLIED[cache](network, config)
    return pipe


def cases(*cells):
    return at_night(case for case, cell in TABLE.items() if cell in cells)


EACH = pytest.mark.parametrize(("cache", "family"), cases("✓"))


def told(pipe, family):
    return stock(pipe, family, steps=5)


@EACH
def test_latents_are_those_of_the_stock_pipeline(cache, family):
    expected = told(cached(cache, family), family)
    assert not torch.equal(expected, told(NEWER[family](), family))
    pipe = cached(cache, family)
    maps = sdprobe.AttentionMaps(strict=False)
    for hooks in ((), (maps, Asks())):  # the second time too: a run leaves no state
        assert torch.equal(latents_of(pipe, run(pipe, family, *hooks, steps=5)), expected)
    assert torch.equal(attached(cached(cache, family), family, maps, Asks(), steps=5)[0], expected)


ONE_DENOISER = [case for case, cell in TABLE.items() if cell == "✓" and case[1] != "Wan 2.2"]
"""Of two, one does not run in the other's steps."""


@pytest.mark.parametrize(("cache", "family"), at_night(ONE_DENOISER, often=()))
def test_what_did_not_run_was_skipped_by_this_cache(cache, family):
    pipe, ran = cached(cache, family), Ran()
    network = sdprobe.load(pipe).denoiser
    steps = run(pipe, family, ran, steps=5)[ran].steps
    for name in {name for layers in steps[1:] for name in steps[0] - layers}:
        assert cache_of(network, name) == cache.removesuffix(", lite"), name


@pytest.mark.parametrize(("cache", "family"), cases("no effect"))
def test_a_cache_that_finds_nothing_changes_nothing(cache, family):
    plain = told(NEWER[family](), family)
    pipe = cached(cache, family)
    assert torch.equal(told(pipe, family), plain)
    assert torch.equal(latents_of(pipe, run(pipe, family, steps=5)), plain)


@pytest.mark.parametrize(("cache", "family"), cases("no cache context", "an error"))
def test_a_cache_that_the_stock_pipeline_cannot_run(cache, family):
    message = "No cache context is set" if TABLE[cache, family] == "no cache context" else None
    for way in (stock, run, attached):
        with pytest.raises((ValueError, TypeError, RuntimeError, KeyError, IndexError), match=message):
            way(cached(cache, family), family, steps=5)


WITH_METHOD = ("LTX-Video", "CogVideoX", "HunyuanVideo", "Wan 2.1", "Qwen-Image", "Flux.2 klein", "Flux.2 dev")


@pytest.mark.parametrize(
    ("cache", "family"), at_night((cache, family) for cache in ("TextKVCache", "SeaCache") for family in WITH_METHOD)
)
def test_caches_for_other_models(cache, family):
    pipe = cached(cache, family)
    plain = told(NEWER[family](), family)
    assert torch.equal(told(pipe, family), plain)
    assert torch.equal(latents_of(pipe, run(pipe, family, steps=5)), plain)


def test_the_table_has_every_newer_family():
    assert {family for _, family in TABLE} == set(NEWER)
    assert set(TABLE.values()) == {"✓", "no effect", "no cache context", "an error"}
    assert not [f for f in WITH_METHOD if not hasattr(denoisers(NEWER[f]())[0], "enable_cache")]


def test_gradients_through_unconditional_rows_that_are_made_up():
    for way in (run, attached):
        with pytest.raises(ValueError, match="FasterCache leaves the unconditional rows out of some steps"):
            way(cached("FasterCache", "CogVideoX"), "CogVideoX", Squares(), steps=5)
