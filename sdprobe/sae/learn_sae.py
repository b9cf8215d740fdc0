"""`learn_sae`: train a TopK sparse autoencoder on recorded activations (Gao et al. 2024)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from sdprobe.core.activations.form import read_json
from sdprobe.files.atomic_file import write_atomically
from sdprobe.sae.sae_trainer import SaeTrainer
from sdprobe.sae.sparse_autoencoder import SparseAutoencoder
from sdprobe.sae.vector_batches import VectorBatches, digest

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, eq=False)
class SaeTraining:
    """The result of a training.

    Args:
        sae: the autoencoder.
        loss: ``[steps]``: the fraction of variance unexplained and the weighted auxiliary loss of each batch.
        fvu: ``[steps]``: the fraction of variance unexplained of each batch, before its step.
        dead: ``[steps]``: how many features were dead.
    """

    sae: SparseAutoencoder
    loss: Float[Tensor, " steps"] = field(repr=False)
    fvu: Float[Tensor, " steps"] = field(repr=False)
    dead: Int[Tensor, " steps"] = field(repr=False)

    def plot(self) -> Figure:
        """Plot the fraction of variance unexplained and the number of dead features over the steps."""
        figure = Figure(figsize=(6, 2.6), layout="constrained")
        for ax, (name, values) in zip(
            figure.subplots(1, 2), {"FVU": self.fvu, "dead features": self.dead}.items(), strict=True
        ):
            ax.plot(values, color="black", linewidth=0.8)
            ax.set(xlabel="step", ylabel=name)
            ax.spines[["top", "right"]].set_visible(False)
        figure.axes[0].set_yscale("log")
        return figure

    def __repr__(self) -> str:
        return f"SaeTraining({self.sae}, {len(self.loss)} steps)"


def learn_sae(
    dataset: Shaped[Tensor, "samples width"] | Dataset[Any],
    width: int,
    k: int,
    *,
    steps: int = 5000,
    batch: int = 1024,
    lr: float = 2e-3,
    dead_after: int = 100_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: str | Path | None = None,
    every: int = 500,
    progress: bool = True,
) -> SaeTraining:
    """Train a TopK sparse autoencoder.

    The loss is the fraction of variance unexplained, and 1/32 of AuxK: the error that is left is also predicted from
    the dead features nearest to being active, which revives them. Directions have length 1, the encoder begins as the
    transposed decoder, and ``b_dec`` at the mean. Adam's learning rate goes down to 0 in the last fifth of the steps.

    >>> import sdprobe, torch
    >>> directions = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> vectors = directions.repeat(64, 1) * torch.linspace(0.5, 1.5, 512).unsqueeze(1)  # one of 8 directions each
    >>> training = sdprobe.learn_sae(vectors, width=16, k=1, steps=300, batch=128, lr=0.01, progress=False)
    >>> training, training.sae.fvu(vectors) < 0.05
    (SaeTraining(SparseAutoencoder(4 -> 16, TopK(k=1)), 300 steps), True)

    Args:
        dataset: the vectors ``[samples, width of a vector]``, or a dataset of torch that yields them one by one. Its
            order: see `sdprobe.sae.vector_batches.VectorBatches`.
        width: the number of features, the width of the autoencoder.
        k: how many features are active for a vector.
        steps: the number of training steps.
        batch: vectors in a step.
        lr: Adam's learning rate. The vectors are scaled to a variance of 1, so it means the same for every module.
        dead_after: a feature that was not active for so many vectors is dead, and is revived.
        seed: the seed of the initial directions and of the order of the vectors.
        device: where it is trained.
        folder: a folder for a checkpoint, which is created. If it holds one, training continues from it, with the same
            result, bit for bit, as without the interruption.
        every: steps between checkpoints.
        progress: show a progress bar.

    Returns:
        The autoencoder, on the CPU in float32, with the loss, the FVU and the number of dead features of every step.

    Raises:
        ValueError: for invalid arguments, before anything runs; for vectors that are all the same; for a checkpoint
            that was made with other arguments or other vectors, or a file that is not a checkpoint, or a damaged one.
            Of a tensor every vector is compared; of a dataset its length, the first batch, and the last before the
            checkpoint.
        FloatingPointError: if the loss is no longer finite.

    Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders, section 2 and appendix A.
    """
    for name, number in {"width": width, "k": k, "steps": steps, "every": every, "dead_after": dead_after}.items():
        if number < 1:
            raise ValueError(f"{name} must be 1 or more, not {number}")
    if k > width:
        raise ValueError(f"k={k} features cannot be active of {width}: give a larger width=, the number of features")
    if not lr > 0:
        raise ValueError(f"lr must be above 0, not {lr}")
    told: dict[str, Any] = {
        "width": width,
        "k": k,
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "dead_after": dead_after,
        "seed": seed,
    }
    with torch.inference_mode(False):
        batches = VectorBatches(dataset, batch, seed)
        trainer = SaeTrainer(next(batches.after(0)), width, k, steps, lr, dead_after, seed, device)
        ahead = batches.after(0)
        path = None if folder is None else Path(folder) / CHECKPOINT
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            told["vectors"] = batches.digest()
            if path.exists():
                ahead = _resume(trainer, path, told, batches)
        with tqdm(total=steps, initial=trainer.done, desc="sae", disable=not progress) as bar:
            while trainer.done < steps:
                vectors = next(ahead)
                trainer.step(vectors)
                dead = trainer.history["dead"][-1]
                bar.set_postfix(fvu=f"{trainer.history['fvu'][-1]:.3f}", dead=f"{dead:.0f}", refresh=False)
                bar.update()
                if path is not None and (trainer.done % every == 0 or trainer.done == steps):
                    with write_atomically(path) as beside:
                        made = {"settings": json.dumps(told), "latest": digest(vectors)}
                        save_file(trainer.state(), beside, made)
        loss, fvu, dead_features = (torch.tensor(values) for values in trainer.history.values())
        return SaeTraining(trainer.autoencoder(), loss, fvu, dead_features.long())


def _resume(
    trainer: SaeTrainer, path: Path, told: Mapping[str, Any], batches: VectorBatches
) -> Iterator[Float[Tensor, "batch width"]]:
    """Continue from a checkpoint, and return the batches that are left.

    Raises ValueError for a checkpoint of another training, and for a file that is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no dict
            said = file.metadata() or {}
        if missing := {"settings", "latest"} - set(said):
            raise ValueError(f"its metadata say no {' and no '.join(sorted(missing))}")
        made = read_json(said["settings"])
        other = [
            "other vectors" if name == "vectors" else f"{name}={made.get(name)!r}, not {own!r}"
            for name, own in told.items()
            if made.get(name) != own
        ]
        if not other:
            trainer.resume(state)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of learn_sae, or is damaged: {error}") from None
    if not other:
        ahead = batches.after(trainer.done - 1)
        if digest(next(ahead)) == said["latest"]:
            return ahead
        other = ["other vectors"]
    raise ValueError(
        f"the checkpoint {path} was made with {'; '.join(other)}: give what it was made with, or another folder"
    )
