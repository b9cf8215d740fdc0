"""Networks through which gradients would be lost or wrong without a word: refused when a hook wants gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sdprobe.model.denoiser.diffusers_hooks import diffusers_hooks

OFFLOADING = "group_offloading"  # the name under which diffusers registers its hook


def refuse_offloaded_weights(network: nn.Module) -> None:
    """Raise ValueError if group offloading takes a network's weights away before the backward pass can read them.

    A tensor is left in their place, which is on another device; or, if they go to disk, whose memory is not set.
    """
    for module in network.modules():
        hook = diffusers_hooks(module).get(OFFLOADING)
        if hook is None:
            continue
        group = hook.group
        to_disk = group.offload_to_disk_path is not None
        if to_disk or torch.device(group.onload_device).type != torch.device(group.offload_device).type:
            raise ValueError(
                f"a hook wants gradients, and group offloading has taken the weights of {type(network).__name__} to "
                f"{'disk' if to_disk else group.offload_device} by the time of the backward pass: use "
                f"pipe.enable_sequential_cpu_offload(), which leaves it those that it reads"
            )


@contextmanager
def refuse_layers_without_gradient(network: nn.Module, wanted: bool = True) -> Iterator[None]:
    """While this is open, raise ValueError at a quantised layer that passes no gradient from its output to its input.

    In a U-Net gradients would go around such layers, by the convolutions, and look as if they were complete.

    Args:
        network: the network.
        wanted: whether there are gradients at all.
    """
    layers = [(name, module) for name, module in network.named_modules() if is_quantised(module)] if wanted else []
    handles = [module.register_forward_hook(partial(_refuse, name)) for name, module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_quantised(module: nn.Module) -> bool:
    """Return whether a layer's own weights are of some type other than torch's: torchao, bitsandbytes, torch.ao."""
    own = module.parameters(recurse=False)
    return _is_of_torch_ao(module) or any(type(weight) is not nn.Parameter for weight in own)


def _is_of_torch_ao(module: nn.Module) -> bool:
    """Return whether a layer is one of `torch.ao.quantization`, whose outputs seem to have a gradient and have none."""
    return type(module).__module__.startswith("torch.ao.nn.quantized")


def _refuse(name: str, module: nn.Module, args: Any, output: Any) -> None:
    loses = isinstance(output, Tensor) and (not output.requires_grad or _is_of_torch_ao(module))
    if loses and any(isinstance(x, Tensor) and x.requires_grad for x in args):
        raise ValueError(
            f"a hook wants gradients, and none passes {name} ({type(module).__name__}), which is quantised: load the "
            f"model without quantisation, or with quantised weights only, not activations"
        )
