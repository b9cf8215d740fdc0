"""Networks through which gradients would be lost or wrong without a word: refused when a hook wants gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

OFFLOADING = "group_offloading"  # the name under which diffusers registers its hook


def refuse_weights_on_disk(network: nn.Module) -> None:
    """Raise ValueError if group offloading puts a network's weights on disk.

    After each layer it gives the weights' memory to others, and the backward pass would read what happens to be there.
    """
    for module in network.modules():
        registry = getattr(module, "_diffusers_hook", None)
        hook = None if registry is None else registry.hooks.get(OFFLOADING)
        if hook is not None and hook.group.offload_to_disk_path is not None:
            raise ValueError(
                f"a hook wants gradients, and group offloading has put the weights of {type(network).__name__} on "
                f"disk by the time of the backward pass: leave out offload_to_disk_path, or use "
                f"pipe.enable_sequential_cpu_offload()"
            )


@contextmanager
def refuse_layers_without_gradient(network: nn.Module, wanted: bool = True) -> Iterator[None]:
    """While this is open, raise ValueError at a quantised layer that passes no gradient from its output to its input.

    In a U-Net gradients would go around such layers, by the convolutions, and look as if they were complete.

    Args:
        network: the network.
        wanted: whether there are gradients at all.
    """
    layers = [(name, module) for name, module in network.named_modules() if _is_quantised(module)] if wanted else []
    handles = [module.register_forward_hook(partial(_refuse, name)) for name, module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_quantised(module: nn.Module) -> bool:
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
