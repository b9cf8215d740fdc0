"""The tables of docs/concepts/as_you_run_it.md: each way of running a model, in every older family that has it.

`tests/test_newer_as_people_run_it.py` and `tests/test_newer_caches.py` do the same for the newer families. What needs a
library that is not installed is skipped. Caches are held to their table in `tests/test_cache_states.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import sdprobe
from tests.caches import MAKERS, UNET, WORK, attached, denoiser, run, stock
from tests.ways_of_running import OFFLOAD, WAYS, layerwise_casting

PAGE = Path(__file__).resolve().parent.parent / "docs" / "concepts" / "as_you_run_it.md"
ALL = tuple(MAKERS)
LORA = ("Stable Diffusion", "Stable Diffusion XL", "Stable Diffusion 3", "Flux")


LIMITED = {
    "`fuse_qkv_projections()`": (*UNET, "Flux", "PixArt"),
    "LoRA, one or several": LORA,
    "LoRA, fused": LORA,
    "`pipe.enable_freeu(...)`": UNET,
}
"""The families that have a way of running, where not all have it."""

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

ELSEWHERE = {
    "`torch.inference_mode()` around the call",
    '`enable_group_offload(..., offload_to_disk_path="...")`',
    "`pipe.enable_attention_slicing()`",
    "`pipe.enable_xformers_memory_efficient_attention()`",
    "`torch.compile`, whole or in regions",  # tests/test_compiled_parts.py
    '`set_attention_backend("flex")`',  # tests/test_attention_calls.py, as the next two
    '`set_attention_backend("flash")`, `"sage"` and others',
    "another function in the place of `scaled_dot_product_attention`",
    "IP-Adapter, in `attach`",  # tests/test_attach.py
}
"""The other rows of the table."""

CASES = [(name, family) for name in WAYS for family in LIMITED.get(name, ALL)]


def made(name: str, family: str) -> Any:
    pipe = MAKERS[family]()
    pipe.set_progress_bar_config(disable=True)
    WAYS[name](pipe)
    return pipe


@pytest.mark.parametrize(("name", "family"), CASES, ids=map(", ".join, CASES))
def test_it_is_the_stock_pipelines_and_all_attention_is_seen(name, family):
    maps = sdprobe.AttentionMaps(words=["circle"])
    pipe = made(name, family)
    latents, pictures = stock(pipe), stock(pipe, output_type="pil")
    own = run(pipe, maps)
    assert torch.equal(own.latents, latents)
    assert own.images == pictures
    shown, by_attach = attached(pipe, maps)
    assert torch.equal(shown, latents)
    for each in (own, by_attach):
        assert each.coverage.seen
        assert not each.coverage.missed
    assert torch.equal(own[maps].heat_map("circle").values, by_attach[maps].heat_map("circle").values)
    assert torch.equal(stock(pipe), latents)


class Gradients(sdprobe.Transform):
    """The gradient of the summed squares of the noise prediction with respect to the latents."""

    needs_grad = True

    def start(self, run):
        self.found = []

    def noise_pred(self, x, step):
        self.found.extend(torch.autograd.grad(x.float().square().sum(), step.latents))
        return x


EXACT = [
    (name, family)
    for name, family in CASES
    if name.startswith(("`enable_group", "`pipe.enable_group", "`pipe.enable_seq", "`pipe.enable_model", "`pipe.vae"))
]


@pytest.mark.parametrize(("name", "family"), EXACT, ids=map(", ".join, EXACT))
def test_gradients_are_those_of_the_model_as_it_is(name, family):
    gradients = Gradients()
    pipe = made(name, family)
    learning = [weight.requires_grad for weight in denoiser(pipe).parameters()]
    as_it_is, as_run = (run(own, gradients)[gradients].found for own in (MAKERS[family](), pipe))
    assert all(torch.equal(a, b) for a, b in zip(as_it_is, as_run, strict=True))
    assert [weight.requires_grad for weight in denoiser(pipe).parameters()] == learning


@pytest.mark.parametrize("family", MAKERS)
def test_gradients_with_layerwise_casting(family):
    """They are those of a model whose weights have gone through the smaller dtype once, with checkpointing or not."""
    if family.startswith("Stable Diffusion") and family != "Stable Diffusion 3" and TORCH < (2, 11):
        pytest.skip("torch 2.6 does not differentiate convolutions whose weights are in float8 on a CPU; 2.11 does")
    pipe, rounded = MAKERS[family](), MAKERS[family]().to(torch.bfloat16)
    layerwise_casting(pipe)
    kept = dict(denoiser(pipe).named_parameters())
    for name, weight in denoiser(rounded).named_parameters():
        weight.data = kept[name].data.to(torch.bfloat16)
    gradients, losses = (
        Gradients(),
        {
            checkpoint: sdprobe.LossGuidance(
                lambda image: image.float().mean((1, 2, 3)), 2.0, through="model", checkpoint=checkpoint
            )
            for checkpoint in (True, False)
        },
    )
    for a, b in zip(*(run(own, gradients)[gradients].found for own in (pipe, rounded)), strict=True):
        assert torch.equal(a, b)
    guided = run(rounded, losses[False]).latents
    for loss in losses.values():
        assert torch.equal(run(pipe, loss).latents, guided)


@pytest.mark.parametrize("family", MAKERS)
def test_in_inference_mode(family):
    maps = sdprobe.AttentionMaps()
    pipe = MAKERS[family]()
    with torch.inference_mode():
        told = stock(pipe)
        own = run(pipe, maps)
        shown, _ = attached(pipe, maps)
    assert torch.equal(own.latents, told)
    assert torch.equal(shown, told)
    assert not own.latents.is_inference()


@pytest.mark.parametrize("family", MAKERS)
def test_weights_on_disk(family, tmp_path):
    pipe = MAKERS[family]()
    denoiser(pipe).enable_group_offload(offload_type="leaf_level", offload_to_disk_path=str(tmp_path), **OFFLOAD)
    maps = sdprobe.AttentionMaps()
    told = stock(pipe)
    own = run(pipe, maps)
    assert torch.equal(own.latents, told)
    assert torch.equal(attached(pipe, maps)[0], told)
    assert not own.coverage.missed
    for way in (run, attached):
        with pytest.raises(ValueError, match="a hook wants gradients, and group offloading has taken the weights"):
            way(pipe, Gradients())


@pytest.mark.parametrize("family", UNET)
def test_attention_slicing(family):
    pipe = MAKERS[family]()
    pipe.enable_attention_slicing(1)
    told = stock(pipe)
    assert torch.equal(run(pipe).latents, told)
    with pytest.raises(RuntimeError, match="attention slicing"):
        run(pipe, sdprobe.AttentionMaps())
    own = run(pipe, sdprobe.AttentionMaps(strict=False))
    assert torch.equal(own.latents, told)
    assert own.coverage.missed
    assert not own.coverage.seen


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page, without its first two lines."""
    section = re.split(r"\n##+ ", PAGE.read_text("utf-8").split(f"# {heading}\n")[1])[0]
    table = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in table[2:]]


def test_the_page_has_a_row_for_every_way():
    assert {name for name, *_ in rows("Memory, speed and weights")} == {*WAYS, *ELSEWHERE}


def test_the_page_tells_which_cache_runs_in_which_family():
    told = {
        (family, cache.strip("`"))
        for cache, *cells in rows("Caches")
        for family, cell in zip(("Flux", "Stable Diffusion 3", "PixArt", "Stable Diffusion"), cells, strict=True)
        if cell == "✓"
    }
    idle = ("TextKVCache", "SeaCache")
    assert told == {(family, cache.removesuffix(", lite")) for family, cache in WORK if cache not in idle} - {
        ("Stable Diffusion XL", "PyramidAttentionBroadcast")
    }
