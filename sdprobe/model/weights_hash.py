"""`weights_hash`: a hash of all weights of a pipeline, and `source_of`: what it was loaded from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from sdprobe import shapes

SAMPLED = 64
_found: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()


def weights_hash(pipe: Any) -> str | None:
    """Return the SHA-256 of every weight of a pipeline, with its name, dtype and shape; the same on every device.

    Of a LoRA that is not fused, it is also of its strength, and of whether it is active. It is computed once, and again
    where a weight was written to. It takes about a second for each two gigabytes. None where the weights cannot be
    read: those that are offloaded, and some kinds of quantized ones.

    >>> import sdprobe
    >>> weights_hash(sdprobe.load().pipe) == weights_hash(sdprobe.load().pipe)
    True
    """
    weights = dict(_weights(pipe))
    if any(x.is_meta for x in weights.values()):
        return None
    try:
        # A LoRA is fused in place, which no version of a tensor tells: a sample of every weight does. What is written
        # to one number of many, which no sample shows, its version tells.
        sample = _hash({name: x.detach().flatten()[:: max(x.numel() // SAMPLED, 1)] for name, x in weights.items()})
        seen = sample, weights_state(pipe)
        if pipe not in _found or _found[pipe][0] != seen:
            strengths = (f"{name} {said}\n" for name, own in _modules(pipe).items() for said in _adapters(own))
            _found[pipe] = seen, _hash(weights, "".join(strengths).replace("_orig_mod.", ""))
    except (RuntimeError, TypeError, NotImplementedError):  # a kind of tensor that has no bytes of its own
        return None
    return _found[pipe][1]


def weights_state(pipe: Any) -> tuple[object, ...]:
    """Return what becomes another where torch writes to a weight, and where a LoRA is added, changed or removed.

    It reads no number, so no GPU is waited for: a millisecond for the embedded model, three for Stable Diffusion XL.

    >>> import sdprobe
    >>> pipe = sdprobe.load().pipe
    >>> before = weights_state(pipe)
    >>> weights_state(pipe) == before
    True
    >>> with torch.no_grad():
    ...     _ = pipe.unet.conv_in.bias.mul_(1.0)
    >>> weights_state(pipe) == before
    False
    """
    found: list[object] = []
    for own in _modules(pipe).values():
        found += (0 if x.is_inference() else x._version for x in own._parameters.values() if x is not None)
        found += _adapters(own)
    return tuple(found)


def source_of(pipe: Any) -> str | None:
    """Return what `sdprobe.load` takes to load a pipeline again; None if it was made in memory.

    >>> import sdprobe
    >>> source_of(sdprobe.load().pipe)
    'shapes'
    """
    path = getattr(pipe.config, "_name_or_path", None)
    shipped = {str(shapes.WEIGHTS): "shapes", str(shapes.JOINT_WEIGHTS): "shapes-joint"}
    return shipped.get(str(path), str(path)) if path else None


def _hash(tensors: Mapping[str, Shaped[Tensor, ...]], also: str = "") -> str:
    made = hashlib.sha256(also.encode())
    for name, x in tensors.items():
        made.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        made.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{made.hexdigest()}"


def _weights(pipe: Any) -> Iterator[tuple[str, Tensor]]:
    for part, module in sorted(pipe.components.items()):
        if isinstance(module, nn.Module):
            for name, x in sorted(module.state_dict().items()):
                if isinstance(x, Tensor):
                    yield f"{part}.{name.replace('_orig_mod.', '')}", x


def _modules(pipe: Any) -> dict[str, nn.Module]:
    """Return every module of a pipeline by its name."""
    parts = {part: module for part, module in sorted(pipe.components.items()) if isinstance(module, nn.Module)}
    return {f"{part}.{name}": own for part, module in parts.items() for name, own in module.named_modules()}


def _adapters(module: nn.Module) -> Iterator[str]:
    """How an adapter of peft acts, which is in no weight: its strength, and whether it is active or fused."""
    own: Any = module
    if isinstance(scaling := vars(own).get("scaling"), dict) and hasattr(own, "active_adapters"):
        yield f"{sorted(scaling.items())} {own.active_adapters} {own.disable_adapters} {own.merged_adapters}"
