"""What a cache skipped is said to be the cache's doing, and an observer sees the rest."""

from __future__ import annotations

import pytest
import torch
from diffusers import hooks as of_diffusers

import sdprobe
from tests.caches import SIZE, STEPS, broadcast, cached
from tests.stock_pipelines import called
from tests.test_attach import with_ip_adapter
from tests.tiny import stable_diffusion

SETTINGS = {"steps": STEPS, "seed": 3, "progress": False, **SIZE}


class Rows(sdprobe.Observer):
    """How many rows each attention call and each output has, and how many it is said to have."""

    modules = ("*attn2*",)

    def start(self, run):
        self.seen = []

    def attention(self, attn, site):
        self.seen.append((len(attn.query), len(attn.rows), len(site.step.rows)))

    def activation(self, x, site):
        self.seen.append((len(x), len(x), len(site.step.rows)))


def sample(pipe, *hooks):
    return sdprobe.sample(pipe, "a star", hooks=hooks, **SETTINGS)


@pytest.mark.parametrize(
    ("family", "cache"),
    [
        ("Stable Diffusion", "PyramidAttentionBroadcast"),
        ("PixArt", "PyramidAttentionBroadcast"),
        ("PixArt", "MagCache"),
        ("Flux", "FirstBlockCache"),
    ],
)
def test_what_a_cache_skips_is_told_and_the_rest_is_seen(family, cache):
    pipe = cached(family, cache)
    plain = sample(pipe)
    run = sample(pipe, maps := sdprobe.AttentionMaps())
    assert torch.equal(run.latents, plain.latents)
    assert run[maps].heat_map("star").values.isfinite().all()
    assert run.coverage.missed
    for name, why in run.coverage.missed.items():
        skipped = STEPS - run.coverage.seen.get(name, 0)
        assert why == f"skipped by {cache} {skipped} time{'s' * (skipped != 1)}"
    assert run.coverage.hooks[0].total == sum(run.coverage.seen.values())
    with pytest.raises(RuntimeError, match=f"could not be seen: skipped by {cache}"):
        sample(pipe, sdprobe.on("attention", lambda attn: attn))
    assert torch.equal(sample(pipe).latents, plain.latents)


def test_rows_are_those_that_a_cache_leaves():
    run = sample(cached("PixArt", "FasterCache"), rows := Rows())
    assert {counts[0] for counts in run[rows].seen} == {1, 2}
    assert all(len(set(counts)) == 1 for counts in run[rows].seen)


def test_a_processor_that_cannot_be_seen_is_named():
    pipe = stable_diffusion()
    pipe.enable_attention_slicing("max")
    run = sample(pipe, sdprobe.AttentionMaps(strict=False))
    assert all("SlicedAttnProcessor" in why for why in run.coverage.missed.values())
    assert all("pipe.disable_attention_slicing()" in why for why in run.coverage.missed.values())


def test_a_transform_of_image_prompts_that_a_cache_skips_is_refused():
    stock = with_ip_adapter()
    of_diffusers.apply_pyramid_attention_broadcast(stock.pipe.unet, broadcast(lambda: 500))
    hook = sdprobe.on("attention", lambda attn: attn, kinds=("image_prompt",))
    with pytest.raises(RuntimeError, match="skipped by PyramidAttentionBroadcast"), sdprobe.attach(stock.pipe, [hook]):
        called(stock, ip_adapter_image_embeds=[torch.randn(2, 1, 8)])
