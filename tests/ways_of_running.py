"""The ways of running a model of docs/concepts/as_you_run_it.md, each as something that is done to a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import nn

CPU = torch.device("cpu")
CAST = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.bfloat16}
OFFLOAD: dict[str, Any] = {"onload_device": CPU, "offload_device": CPU}
NETWORKS = ("unet", "transformer", "transformer_2")
Way = Callable[[Any], Any]


def denoisers(pipe: Any) -> list[Any]:
    """The denoiser of a pipeline, or both."""
    return [getattr(pipe, name) for name in NETWORKS if getattr(pipe, name, None) is not None]


def in_dtype(dtype: torch.dtype) -> Way:
    return lambda pipe: pipe.to(dtype)


def channels_last(pipe: Any) -> None:
    for part in (*denoisers(pipe), pipe.vae):
        part.to(memory_format=torch.channels_last)


def layerwise_casting(pipe: Any) -> None:
    pipe.to(torch.bfloat16)
    for network in denoisers(pipe):
        network.enable_layerwise_casting(**CAST)


def layerwise_casting_of_the_vae(pipe: Any) -> None:
    pipe.to(torch.bfloat16)
    pipe.vae.enable_layerwise_casting(**CAST)


def leaves_offloaded(pipe: Any) -> None:
    for network in denoisers(pipe):
        network.enable_group_offload(offload_type="leaf_level", **OFFLOAD)


def blocks_offloaded(pipe: Any) -> None:
    for network in denoisers(pipe):
        network.enable_group_offload(offload_type="block_level", num_blocks_per_group=1, **OFFLOAD)


def every_part_offloaded(pipe: Any) -> None:
    pipe.enable_group_offload(offload_type="leaf_level", **OFFLOAD)


def sequential_offload(pipe: Any) -> None:
    """What `enable_sequential_cpu_offload` does, which itself asks for an accelerator."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            cpu_offload(part, CPU, offload_buffers=len(part._parameters) > 0)


def tiled(pipe: Any) -> None:
    """In tiles of four positions of the latents each way, of which one is shared with the next."""
    vae = pipe.vae
    vae.enable_tiling()
    ratio = getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(vae.config.block_out_channels) - 1)
    sides = {"sample_min": 4 * ratio, "latent_min": 4, "sample_stride": 3 * ratio}
    for name in [own for own in vars(vae) if own.endswith(("_size", "_height", "_width"))]:
        for part in (part for part in sides if name.startswith(f"tile_{part}")):
            setattr(vae, name, sides[part])


def fused_projections(pipe: Any) -> None:
    for network in denoisers(pipe):
        network.fuse_qkv_projections()


def lora(pipe: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"])
    for network in denoisers(pipe):
        network.add_adapter(config, "one")
        network.add_adapter(config, "other")
        network.set_adapters(["one", "other"], [0.5, 0.7])


def fused_lora(pipe: Any) -> None:
    lora(pipe)
    pipe.fuse_lora(components=[name for name in NETWORKS if getattr(pipe, name, None) is not None])


def by_torchao(name: str) -> Way:
    def quantise(pipe: Any) -> None:
        quantization = pytest.importorskip("torchao.quantization")
        pipe.to(torch.bfloat16)
        for network in denoisers(pipe):
            quantization.quantize_(network, getattr(quantization, name)())

    return quantise


def by_bitsandbytes(name: str, **options: Any) -> Way:
    """The layers that diffusers would put there; its own loading of them asks for an accelerator."""

    def quantise(pipe: Any) -> None:
        layers = pytest.importorskip("bitsandbytes").nn
        linear = [
            (part, name, own)
            for network in denoisers(pipe)
            for place, part in network.named_modules()
            if not {*place.split(".")} & {*(network._keep_in_fp32_modules or ())}
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


WAYS: dict[str, Way] = {
    "`pipe.to(torch.float16)`": in_dtype(torch.float16),
    "`pipe.to(torch.bfloat16)`": in_dtype(torch.bfloat16),
    "`memory_format=torch.channels_last`": channels_last,
    "`enable_layerwise_casting(...)` of the denoiser": layerwise_casting,
    "`enable_layerwise_casting(...)` of the autoencoder": layerwise_casting_of_the_vae,
    '`enable_group_offload(offload_type="leaf_level")`': leaves_offloaded,
    '`enable_group_offload(offload_type="block_level")`': blocks_offloaded,
    "`pipe.enable_group_offload(...)`": every_part_offloaded,
    "`pipe.enable_sequential_cpu_offload()`": sequential_offload,
    "`pipe.enable_model_cpu_offload()`": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "torchao, weights in int8": by_torchao("Int8WeightOnlyConfig"),
    "torchao, weights in float8": by_torchao("Float8WeightOnlyConfig"),
    "torchao, weights and activations in int8": by_torchao("Int8DynamicActivationInt8WeightConfig"),
    "bitsandbytes, 8 bit": by_bitsandbytes("Linear8bitLt", has_fp16_weights=False),
    "bitsandbytes, 4 bit": by_bitsandbytes("Linear4bit", quant_type="nf4"),
    "`pipe.vae.enable_slicing()`": lambda pipe: pipe.vae.enable_slicing(),
    "`pipe.vae.enable_tiling()`": tiled,
    "`fuse_qkv_projections()`": fused_projections,
    "LoRA, one or several": lora,
    "LoRA, fused": fused_lora,
    "`pipe.enable_freeu(...)`": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
}
"""Every way in which the picture is that of the stock pipeline and all attention is seen, by its name in the table."""
