"""`cache_of` names the cache of every module that a cache skips, and none where none can."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe.model.denoiser.skipped_by_cache import CACHES, cache_of
from tests.caches import MAKERS, WORK, cached, denoiser, run


class Ran(sdprobe.Observer):
    """How often each layer of the denoiser ran within the loop's own calls, by step."""

    def start(self, run):
        self.steps, self.handles = [], []
        for name, module in run.model.denoiser.named_modules():
            if name and not list(module.children()):
                self.handles.append(module.register_forward_hook(lambda *_, name=name: self.steps[-1].add(name)))

    def latents(self, x, step):
        self.steps.append(set())

    def finish(self, run):
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize(("family", "cache"), WORK, ids=map("-".join, WORK))
def test_what_did_not_run_was_skipped_by_this_cache(family, cache):
    pipe, ran = cached(family, cache), Ran()
    steps = run(pipe, ran)[ran].steps
    skipped = {name for layers in steps[1:] for name in steps[0] - layers}
    for name in skipped:
        assert cache_of(denoiser(pipe), name) == cache.removesuffix(", lite"), name
    if cache not in ("TextKVCache", "SeaCache"):
        assert skipped


def test_a_block_that_is_always_computed():
    pipe = cached("Flux", "FirstBlockCache")
    assert cache_of(denoiser(pipe), "transformer_blocks.0.attn") is None
    assert cache_of(denoiser(pipe), "single_transformer_blocks.0.attn") == "FirstBlockCache"
    assert cache_of(denoiser(pipe), "single_transformer_blocks.0") == "FirstBlockCache"
    assert cache_of(denoiser(pipe), "x_embedder") is None


@pytest.mark.parametrize("family", MAKERS)
def test_without_a_cache(family):
    network = denoiser(MAKERS[family]())
    assert {cache_of(network, name) for name, _ in network.named_modules() if name} == {None}


def test_after_a_cache_was_switched_off():
    pipe = cached("Flux", "MagCache")
    assert cache_of(denoiser(pipe), "transformer_blocks.0.attn") == "MagCache"
    denoiser(pipe).disable_cache()
    assert cache_of(denoiser(pipe), "transformer_blocks.0.attn") is None


def test_every_cache_that_diffusers_registers_is_known():
    """By the names it registers them under, except those of hooks that skip nothing."""
    from diffusers.hooks import faster_cache, first_block_cache, mag_cache, sea_cache, taylorseer_cache, text_kv_cache
    from diffusers.hooks import pyramid_attention_broadcast as broadcast

    caches = (broadcast, faster_cache, first_block_cache, mag_cache, sea_cache, taylorseer_cache, text_kv_cache)
    named = {
        value
        for module in caches
        for name, value in vars(module).items()
        if name.endswith(("_HOOK", "_BROADCAST_HOOK")) or name.startswith("_TEXT_KV_CACHE")
    }
    skip_nothing = {
        "fbc_leader_block_hook",
        "faster_cache_denoiser",
        "sea_cache_root",
        "text_kv_cache_transformer",
        "text_kv_cache_block",
    }
    assert named - skip_nothing == set(CACHES)
