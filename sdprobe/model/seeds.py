"""Seeds as torch takes them, and the noise that a pipeline draws from them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Shaped
from torch import Tensor

Seed = int | Sequence[int]


def checked_seed(seed: Any) -> int | tuple[int, ...]:
    """Return a seed, or one for each of several images, as Python integers.

    Integers of NumPy and torch are accepted too. Raises ValueError for anything else, for a seed that torch does not
    accept, and for a negative one, which in torch equals a positive one: each seed should have one number only.
    """
    several = isinstance(seed, Iterable) and getattr(seed, "ndim", 1) != 0
    numbers = tuple(map(_whole, seed)) if several else (_whole(seed),)
    if unfit := [number for number in numbers if not 0 <= number < 2**64]:
        alike = f"; torch takes it for {unfit[0] + 2**64}" if -(2**63) <= unfit[0] < 0 else ""
        raise ValueError(f"a seed is a number from 0 to 2**64 - 1, not {unfit[0]}{alike}")
    return numbers if several else numbers[0]


def _whole(seed: Any) -> int:
    if isinstance(seed, Tensor) and (seed.ndim or seed.is_floating_point()):
        raise ValueError(f"seed is a whole number, not {seed!r}")
    try:
        return operator.index(seed)
    except TypeError:
        raise ValueError(f"seed is a whole number, not {seed!r}") from None


def generators(seed: int | Sequence[int]) -> torch.Generator | list[torch.Generator]:
    """Return CPU generators: one for a seed, or one for each of several."""
    seed = checked_seed(seed)
    if isinstance(seed, int):
        return torch.Generator("cpu").manual_seed(seed)
    return [torch.Generator("cpu").manual_seed(s) for s in seed]


def noise_like(
    latents: Shaped[Tensor, "images channels *size"], seed: int | Sequence[int]
) -> Shaped[Tensor, "images channels *size"]:
    """Return noise of unit variance for latents, as a pipeline draws it from a seed, or from one for each image."""
    made: Tensor = randn_tensor(latents.shape, generators(seed), latents.device, latents.dtype)
    return made
