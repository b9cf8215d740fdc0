"""`TopK`, `ReLU`, `JumpReLU`: what a sparse autoencoder applies to its encoder's output."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ReLU:
    """Keep what is above 0.

    >>> import torch
    >>> ReLU()(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.0000, 0.5000, 2.0000])
    """

    def __call__(self, x: Float[Tensor, "*places features"]) -> Float[Tensor, "*places features"]:
        return x.relu()


@dataclass(frozen=True)
class TopK:
    """Keep the ``k`` largest values of every vector, and of these what is above 0.

    >>> import torch
    >>> TopK(1)(torch.tensor([[-1.0, 0.5, 2.0], [-3.0, -2.0, -1.0]]))
    tensor([[0., 0., 2.],
            [0., 0., 0.]])

    Args:
        k: how many, 1 or more.

    Source: Makhzani and Frey 2014, k-Sparse Autoencoders; Gao et al. 2024, Scaling and evaluating sparse autoencoders,
    section 2.3.
    """

    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k is a whole number from 1 on, not {self.k!r}")

    def __call__(self, x: Float[Tensor, "*places features"]) -> Float[Tensor, "*places features"]:
        found = x.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(x).scatter(-1, found.indices, found.values.relu())


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """Keep what is above 0 and above a threshold of each feature, unchanged.

    >>> import torch
    >>> JumpReLU(torch.tensor([0.0, 1.0, 1.0]))(torch.tensor([0.5, 0.5, 2.0]))
    tensor([0.5000, 0.0000, 2.0000])

    Args:
        threshold: ``[features]``.

    Source: Rajamanoharan et al. 2024, Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders, section 3.
    """

    threshold: Float[Tensor, " features"] = field(repr=False)

    def __call__(self, x: Float[Tensor, "*places features"]) -> Float[Tensor, "*places features"]:
        return x.relu() * (x > self.threshold)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> JumpReLU:
        """Return the same function with its threshold on another device or in another dtype."""
        return replace(self, threshold=self.threshold.to(device, dtype))


ActivationFunction = ReLU | TopK | JumpReLU
