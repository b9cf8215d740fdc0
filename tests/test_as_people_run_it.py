"""The table of docs/concepts/as_you_run_it.md: each way of running a model, in every family that has it.

What needs a library that is not installed is skipped. Caches are held to their table in `tests/test_cache_states.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import nn

import sdprobe
from tests.caches import MAKERS, UNET, WORK, attached, denoiser, run, stock

PAGE = Path(__file__).resolve().parent.parent / "docs" / "concepts" / "as_you_run_it.md"
ALL = tuple(MAKERS)
LORA = ("Stable Diffusion", "Stable Diffusion XL", "Stable Diffusion 3", "Flux")
CPU = torch.device("cpu")
CAST = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.bfloat16}
OFFLOAD: dict[str, Any] = {"onload_device": CPU, "offload_device": CPU}
Way = Callable[[Any], Any]


def in_dtype(dtype: torch.dtype) -> Way:
    return lambda pipe: pipe.to(dtype)


def channels_last(pipe: Any) -> None:
    for part in (denoiser(pipe), pipe.vae):
        part.to(memory_format=torch.channels_last)


def layerwise_casting(pipe: Any) -> None:
    pipe.to(torch.bfloat16)
    denoiser(pipe).enable_layerwise_casting(**CAST)


def layerwise_casting_of_the_vae(pipe: Any) -> None:
    pipe.to(torch.bfloat16)
    pipe.vae.enable_layerwise_casting(**CAST)


def leaves_offloaded(pipe: Any) -> None:
    denoiser(pipe).enable_group_offload(offload_type="leaf_level", **OFFLOAD)


def blocks_offloaded(pipe: Any) -> None:
    denoiser(pipe).enable_group_offload(offload_type="block_level", num_blocks_per_group=1, **OFFLOAD)


def every_part_offloaded(pipe: Any) -> None:
    pipe.enable_group_offload(offload_type="leaf_level", **OFFLOAD)


def sequential_offload(pipe: Any) -> None:
    """What `enable_sequential_cpu_offload` does, which itself asks for an accelerator."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            cpu_offload(part, CPU, offload_buffers=len(part._parameters) > 0)


def tiled(pipe: Any) -> None:
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 8, 4


def lora(pipe: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"])
    denoiser(pipe).add_adapter(config, "one")
    denoiser(pipe).add_adapter(config, "other")
    denoiser(pipe).set_adapters(["one", "other"], [0.5, 0.7])


def fused_lora(pipe: Any) -> None:
    lora(pipe)
    pipe.fuse_lora(components=["unet" if hasattr(pipe, "unet") else "transformer"])


def by_torchao(name: str) -> Way:
    def quantise(pipe: Any) -> None:
        quantization = pytest.importorskip("torchao.quantization")
        pipe.to(torch.bfloat16)
        quantization.quantize_(denoiser(pipe), getattr(quantization, name)())

    return quantise


def by_bitsandbytes(name: str, **options: Any) -> Way:
    """The layers that diffusers would put there; its own loading of them asks for an accelerator."""

    def quantise(pipe: Any) -> None:
        layers = pytest.importorskip("bitsandbytes").nn
        linear = [
            (part, name, own)
            for part in denoiser(pipe).modules()
            for name, own in part.named_children()
            if isinstance(own, nn.Linear)
        ]
        for part, place, own in linear:
            new = getattr(layers, name)(own.in_features, own.out_features, own.bias is not None, **options)
            weight = type(new.weight)(own.weight.data, requires_grad=False, **vars_of(new.weight))
            new.weight, new.bias = weight, own.bias
            setattr(part, place, new.to("cpu"))

    return quantise


def vars_of(weight: Any) -> dict[str, Any]:
    return {name: getattr(weight, name) for name in ("quant_type", "has_fp16_weights") if hasattr(weight, name)}


WAYS: dict[str, tuple[tuple[str, ...], Way]] = {
    "`pipe.to(torch.float16)`": (ALL, in_dtype(torch.float16)),
    "`pipe.to(torch.bfloat16)`": (ALL, in_dtype(torch.bfloat16)),
    "`memory_format=torch.channels_last`": (ALL, channels_last),
    "`enable_layerwise_casting(...)` of the denoiser": (ALL, layerwise_casting),
    "`enable_layerwise_casting(...)` of the autoencoder": (ALL, layerwise_casting_of_the_vae),
    '`enable_group_offload(offload_type="leaf_level")`': (ALL, leaves_offloaded),
    '`enable_group_offload(offload_type="block_level")`': (ALL, blocks_offloaded),
    "`pipe.enable_group_offload(...)`": (ALL, every_part_offloaded),
    "`pipe.enable_sequential_cpu_offload()`": (ALL, sequential_offload),
    "`pipe.enable_model_cpu_offload()`": (ALL, lambda pipe: pipe.enable_model_cpu_offload(device="cpu")),
    "torchao, weights in int8": (ALL, by_torchao("Int8WeightOnlyConfig")),
    "torchao, weights in float8": (ALL, by_torchao("Float8WeightOnlyConfig")),
    "torchao, weights and activations in int8": (ALL, by_torchao("Int8DynamicActivationInt8WeightConfig")),
    "bitsandbytes, 8 bit": (ALL, by_bitsandbytes("Linear8bitLt", has_fp16_weights=False)),
    "bitsandbytes, 4 bit": (ALL, by_bitsandbytes("Linear4bit", quant_type="nf4")),
    "`pipe.vae.enable_slicing()`": (ALL, lambda pipe: pipe.vae.enable_slicing()),
    "`pipe.vae.enable_tiling()`": (ALL, tiled),
    "`fuse_qkv_projections()`": ((*UNET, "Flux", "PixArt"), lambda pipe: denoiser(pipe).fuse_qkv_projections()),
    "LoRA, one or several": (LORA, lora),
    "LoRA, fused": (LORA, fused_lora),
    "`pipe.enable_freeu(...)`": (UNET, lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4)),
}
"""Every way in which the picture is that of the stock pipeline and all attention is seen, by its name in the table."""

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

CASES = [(name, family) for name, (families, _) in WAYS.items() for family in families]


def made(name: str, family: str) -> Any:
    pipe = MAKERS[family]()
    pipe.set_progress_bar_config(disable=True)
    WAYS[name][1](pipe)
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
    if family.startswith("Stable Diffusion") and family != "Stable Diffusion 3" and TORCH < (2, 11):
        pytest.skip("torch 2.6 does not differentiate convolutions whose weights are in float8 on a CPU; 2.11 does")
    """They are those of a model whose weights have gone through the smaller dtype once, with checkpointing or not."""
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
    section = PAGE.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
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
