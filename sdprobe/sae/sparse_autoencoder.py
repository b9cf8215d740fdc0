"""`SparseAutoencoder`: an overcomplete dictionary of directions, and an encoder that finds few of them in a vector."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.short_repr import said
from sdprobe.sae.activation_function import ActivationFunction, JumpReLU, TopK
from sdprobe.sae.sae_formats import Weights, read_weights, write_weights


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """A sparse autoencoder: ``features = f((x - b_dec) W_enc + b_enc)`` and ``x ≈ features W_dec + b_dec``.

    Its functions are differentiable, and its tensors are never changed.

    >>> import sdprobe, torch
    >>> from sdprobe.sae.activation_function import TopK
    >>> directions = torch.eye(3)
    >>> sae = sdprobe.SparseAutoencoder(directions, torch.zeros(3), directions, torch.zeros(3), TopK(1))
    >>> sae, sae.encode(torch.tensor([1.0, 3.0, 2.0]))
    (SparseAutoencoder(3 -> 3, TopK(k=1)), tensor([0., 3., 0.]))
    >>> sae(torch.tensor([1.0, 3.0, 2.0]))
    tensor([0., 3., 0.])

    Args:
        W_enc: ``[width, features]``.
        b_enc: ``[features]``.
        W_dec: ``[features, width]``: the direction of each feature.
        b_dec: ``[width]``.
        activation: `TopK`, `ReLU` or `JumpReLU`.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted before encoding, as in most; Gemma Scope's do not.

    Raises:
        ValueError: for tensors whose shapes or dtypes do not fit each other.

    Source: Cunningham et al. 2023, Sparse Autoencoders Find Highly Interpretable Features in Language Models, section
    2; Bricken et al. 2023, Towards Monosemanticity.
    """

    W_enc: Float[Tensor, "width features"] = field(repr=False)
    b_enc: Float[Tensor, " features"] = field(repr=False)
    W_dec: Float[Tensor, "features width"] = field(repr=False)
    b_dec: Float[Tensor, " width"] = field(repr=False)
    activation: ActivationFunction
    apply_b_dec_to_input: bool = True

    def __post_init__(self) -> None:
        tensors = {name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        if isinstance(self.activation, JumpReLU):
            tensors["threshold"] = self.activation.threshold
        shapes = {name: tuple(own.shape) for name, own in tensors.items()}
        if self.W_enc.ndim != 2:
            raise ValueError(f"W_enc is [width, features], not {list(self.W_enc.shape)}")
        width, features = self.W_enc.shape
        wanted = {"b_enc": (features,), "W_dec": (features, width), "b_dec": (width,), "threshold": (features,)}
        for name, shape in shapes.items():
            if name in wanted and shape != wanted[name]:
                turned = ": is it transposed?" if name == "W_dec" and shape == (width, features) != wanted[name] else ""
                raise ValueError(
                    f"W_enc is [width, features] = {[width, features]}, so {name} must be {list(wanted[name])}, not "
                    f"{list(shape)}{turned}"
                )
        if len({(own.dtype, own.device) for own in tensors.values()}) > 1 or not self.W_enc.is_floating_point():
            listed = ", ".join(f"{name} {said(own)} on {own.device}" for name, own in tensors.items())
            raise ValueError(f"the tensors must be of one floating dtype and on one device, and they are {listed}")
        if isinstance(self.activation, TopK) and self.activation.k > features:
            raise ValueError(f"TopK({self.activation.k}) keeps more features than the {features} there are")

    @classmethod
    def load(cls, path: str | Path, activation: ActivationFunction | None = None) -> SparseAutoencoder:
        """Load one from a file or a folder; the formats are listed in `sdprobe.sae.sae_formats`.

        Args:
            path: a ``.safetensors`` file, or a folder with weights and a JSON file.
            activation: the activation function, for a file that does not say it.

        Raises:
            FileNotFoundError: if nothing is there.
            ValueError: for a format that is not known, weights that are missing, not finite or do not fit each other,
                and an architecture that this class cannot compute.
        """
        try:
            return cls(*read_weights(Path(path), activation))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write it to a ``.safetensors`` file, or, for any other path, to a folder that sae-lens can read."""
        own = (self.W_enc, self.b_enc, self.W_dec, self.b_dec, self.activation, self.apply_b_dec_to_input)
        write_weights(Path(path), Weights(*own))

    @property
    def width(self) -> int:
        """The width of the vectors."""
        return self.W_enc.shape[0]

    @property
    def features(self) -> int:
        """The number of features."""
        return self.W_enc.shape[1]

    def encode(self, x: Float[Tensor, "*places width"]) -> Float[Tensor, "*places features"]:
        """Return the activations of the features, computed in the dtype of the weights.

        Raises ValueError for vectors of another width.
        """
        return self.activation(self.pre_activations(x))

    def pre_activations(self, x: Float[Tensor, "*places width"]) -> Float[Tensor, "*places features"]:
        """Return what the activation function is applied to. Raises ValueError for vectors of another width."""
        if not x.ndim or x.shape[-1] != self.width:
            raise ValueError(f"this autoencoder reads vectors of width {self.width}, and these are {list(x.shape)}")
        x = x.to(self.W_enc.dtype)
        return (x - self.b_dec if self.apply_b_dec_to_input else x) @ self.W_enc + self.b_enc

    def decode(self, features: Float[Tensor, "*places features"]) -> Float[Tensor, "*places width"]:
        """Return the vectors that activations of the features stand for."""
        return features @ self.W_dec + self.b_dec

    def __call__(self, x: Float[Tensor, "*places width"]) -> Float[Tensor, "*places width"]:
        """Return the reconstruction of vectors."""
        return self.decode(self.encode(x))

    def fvu(self, x: Float[Tensor, "samples width"]) -> float:
        """Return the fraction of variance unexplained: squared error over squared distance from the mean of ``x``."""
        with torch.no_grad():
            x = x.to(self.W_enc)
            return ((x - self(x)).square().sum() / (x - x.mean(0)).square().sum()).item()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SparseAutoencoder:
        """Return the same autoencoder on another device or in another dtype."""
        activation, dtype = self.activation, self.W_enc.dtype if dtype is None else dtype
        device = self.W_enc.device if device is None else device
        return replace(
            self,
            W_enc=self.W_enc.to(device, dtype),
            b_enc=self.b_enc.to(device, dtype),
            W_dec=self.W_dec.to(device, dtype),
            b_dec=self.b_dec.to(device, dtype),
            activation=activation.to(device, dtype) if isinstance(activation, JumpReLU) else activation,
        )

    def __repr__(self) -> str:
        return f"SparseAutoencoder({self.width} -> {self.features}, {self.activation})"
