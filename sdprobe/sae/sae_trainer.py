"""`SaeTrainer`: the training of a TopK sparse autoencoder, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.short_repr import said
from sdprobe.sae.activation_function import TopK
from sdprobe.sae.sparse_autoencoder import SparseAutoencoder

AUX_WEIGHT = 1 / 32  # Gao et al. 2024, appendix A.2
DECAY = 0.2  # the last share of the steps, in which the learning rate goes down to 0
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
HISTORY = ("loss", "fvu", "dead")


class SaeTrainer:
    """A training of a sparse autoencoder: its state and its steps.

    The vectors are divided by one number, their root mean square distance from their mean, so that a learning rate
    means the same for every module. TopK is homogeneous, so the result for the vectors as they are differs only in its
    biases.

    Args:
        first: the first batch: it gives the scale, and ``b_dec`` begins at its mean.
        features: the number of features.
        k: how many of them are active.
        steps: the number of steps in all.
        lr: the learning rate of Adam.
        dead_after: a feature is dead when it was not active for so many vectors.
        seed: the seed of the initial directions.
        device: where it is trained.

    Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders, section 2 and appendix A.
    """

    def __init__(
        self,
        first: Float[Tensor, "batch width"],
        features: int,
        k: int,
        steps: int,
        lr: float,
        dead_after: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.steps, self.lr, self.dead_after, self.activation = steps, lr, dead_after, TopK(k)
        first, width = first.to(device), first.shape[1]
        centre = first.mean(0)
        self.scale = (first - centre).square().mean().sqrt().item()
        if not 0 < self.scale < float("inf"):
            raise ValueError("the vectors are all the same, or hold NaN or infinity: there is nothing to learn")
        random = torch.Generator().manual_seed(seed)
        dec = torch.randn(features, width, generator=random).to(device)
        dec = dec / dec.norm(dim=1, keepdim=True)
        # The encoder begins as the transposed decoder, which prevents most dead features (Gao et al., appendix A.1).
        begun = (dec.T.clone(), torch.zeros(features, device=device), dec.clone(), centre / self.scale)
        self.leaves = dict(zip(NAMES, (own.contiguous().requires_grad_() for own in begun), strict=True))
        self.optimiser = torch.optim.Adam(self.leaves.values(), lr=lr, eps=6.25e-10)
        self.idle = torch.zeros(features, dtype=torch.long, device=device)
        self.history: dict[str, list[float]] = {name: [] for name in HISTORY}

    @property
    def done(self) -> int:
        """The number of steps done."""
        return len(self.history["loss"])

    def step(self, batch: Float[Tensor, "batch width"]) -> None:
        """Run one training step on one batch. Raises FloatingPointError if the loss is no longer finite."""
        x = batch.to(self.idle.device) / self.scale
        W_enc, b_enc, W_dec, b_dec = self.leaves.values()
        with torch.enable_grad():
            sae = SparseAutoencoder(W_enc, b_enc, W_dec, b_dec, self.activation)
            pre = sae.pre_activations(x)
            features = self.activation(pre)
            error = x - sae.decode(features)
            variance = (x - x.mean(0)).square().sum()
            fvu = error.square().sum() / variance
            dead = self.idle > self.dead_after
            loss = fvu + AUX_WEIGHT * self._auxiliary(pre, error.detach(), dead)
            gradients = torch.autograd.grad(loss, list(self.leaves.values()))
        if not loss.isfinite():
            raise FloatingPointError(f"the loss of step {self.done} is {loss.item()}: lower lr, now {self.lr}")
        for leaf, gradient in zip(self.leaves.values(), gradients, strict=True):
            leaf.grad = gradient
        with torch.no_grad():
            # Only the part of the gradient that turns a direction: its length is 1 again after the step.
            turning = W_dec.grad - (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec  # type: ignore[operator]
            W_dec.grad = turning
            self.optimiser.param_groups[0]["lr"] = self._rate()
            self.optimiser.step()
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
            self.idle = torch.where((features > 0).any(0), 0, self.idle + len(x))
        for name, value in zip(HISTORY, (loss, fvu, dead.sum()), strict=True):
            self.history[name].append(value.item())

    def _auxiliary(
        self, pre: Float[Tensor, "batch features"], error: Float[Tensor, "batch width"], dead: Bool[Tensor, " features"]
    ) -> Float[Tensor, ""] | float:
        """Return AuxK: how well the dead features that are nearest to being active explain the error."""
        count = int(dead.sum())
        if not count:
            return 0.0
        k = min(max(error.shape[1] // 2, 1), count)
        revived = TopK(k)(pre[:, dead]) @ self.leaves["W_dec"][dead]
        return (error - revived).square().sum() / error.square().sum()

    def _rate(self) -> float:
        return self.lr * min(1.0, (self.steps - self.done) / (DECAY * self.steps))

    def autoencoder(self) -> SparseAutoencoder:
        """Return the present autoencoder, for the vectors as they are, on the CPU."""
        W_enc, b_enc, W_dec, b_dec = (leaf.detach().cpu().clone() for leaf in self.leaves.values())
        return SparseAutoencoder(W_enc, b_enc * self.scale, W_dec, b_dec * self.scale, self.activation)

    def state(self) -> dict[str, Tensor]:
        """Return all that the steps change, as tensors by name."""
        found = {name: leaf.detach().cpu() for name, leaf in self.leaves.items()}
        for name, leaf in self.leaves.items():
            for part, value in self.optimiser.state[leaf].items():
                found[f"adam.{name}.{part}"] = value.detach().cpu()
        found |= {name: torch.tensor(values, dtype=torch.float64) for name, values in self.history.items()}
        return found | {"idle": self.idle.cpu(), "scale": torch.tensor(self.scale, dtype=torch.float64)}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of `state`. Raises ValueError, and changes nothing, for anything else."""
        self._check(state)
        adam: dict[int, dict[str, Any]] = {}
        with torch.no_grad():
            for k, (name, leaf) in enumerate(self.leaves.items()):
                leaf.copy_(state[name])
                parts = {key.rpartition(".")[2]: value for key, value in state.items() if f"adam.{name}." in key}
                adam[k] = {part: value.clone() for part, value in parts.items()}
        self.optimiser.load_state_dict({"state": adam, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.idle, self.scale = state["idle"].to(self.idle.device), state["scale"].item()
        self.history = {name: state[name].tolist() for name in HISTORY}

    def _check(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError for anything that `state` does not give."""
        number, done = torch.zeros((), dtype=torch.float64), state["loss"].numel() if "loss" in state else 0
        like = {"idle": self.idle, "scale": number} | {name: number.expand(done) for name in HISTORY}
        for name, leaf in self.leaves.items():
            like |= {name: leaf, f"adam.{name}.step": number.float()}
            like |= {f"adam.{name}.{part}": leaf for part in ("exp_avg", "exp_avg_sq")}
        if missing := [name for name in like if name not in state]:
            raise ValueError(f"{', '.join(missing)} missing")
        for name, own in like.items():
            if (own.shape, own.dtype) != (state[name].shape, state[name].dtype):
                raise ValueError(f"{name} is {said(state[name])}, not {said(own)}")
            refuse_not_finite(name, state[name])
        counts = {done, *(state[f"adam.{name}.step"].item() for name in NAMES)}
        if len(counts) > 1 or not 1 <= done <= self.steps:
            raise ValueError(f"it is of {' and '.join(f'{count:g}' for count in sorted(counts))} of {self.steps} steps")
