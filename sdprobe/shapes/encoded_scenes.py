"""Scenes as the denoisers learn from them: latents and captions, drawn and encoded once and kept in a file."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm.auto import tqdm

from sdprobe.files.atomic_file import write_atomically

from .scenes import scene
from .train_autoencoder import scaled

POOL = 48_000
"""Scenes held at a time."""
PASSES = 4
"""How often each is seen, on average, before the next ones are drawn."""
DROPPED = 0.1
"""Share of captions left out, for classifier-free guidance."""
UNSEEN = 10_000_000
"""First seed of the scenes kept for the error on unseen ones."""
_SCENES_PER_SEED = 1_000_000
_PART = 64


@dataclass(frozen=True)
class Encoded:
    """Latents `[scenes, 4, 16, 16]` and the captions they go with."""

    latents: Tensor
    captions: list[str]


Drawn = tuple[np.ndarray, list[str]]
"""Pictures `[scenes, 64, 64, 3]` and their captions."""


def draw_scenes(first: int, count: int) -> Drawn:
    """The scenes of so many seeds: every other one of two objects, of the rest as many as `scene` draws."""
    scenes = [scene(seed, 2 if seed % 2 else None) for seed in range(first, first + count)]
    return np.stack([own.image for own in scenes]), [own.caption for own in scenes]


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, first: int, drawn: Iterable[Drawn]) -> Encoded:
    """Scenes drawn a few at a time, as latents; the first one's seed is also that of the autoencoder's noise."""
    noise = torch.Generator().manual_seed(first)
    latents: list[Tensor] = []
    captions: list[str] = []
    for pictures, said in tqdm(drawn, "scenes", unit_scale=_PART, leave=False, mininterval=10):
        posterior = vae.encode(scaled(torch.from_numpy(pictures).permute(0, 3, 1, 2).to(vae.device))).latent_dist
        own = torch.randn(posterior.mean.shape, generator=noise).to(vae.device)
        latents.append((posterior.mean + posterior.std * own) * vae.config.scaling_factor)
        captions.extend(said)
    return Encoded(torch.cat(latents), captions)


class Pools:
    """The scenes of a training, pool after pool.

    Which scenes are at hand depends on the step alone, so that a resumed run sees what it would have seen. A pool is
    drawn once for one autoencoder: it is kept in `folder`, for runs that are resumed and for other trainings.

    Args:
        vae: the frozen autoencoder.
        folder: where pools are kept.
        batch: scenes per step.
        size: scenes per pool.
        seed: every seed has a million scenes of its own, up to seed 9.
        workers: processes that draw the next pool while this one is in use; 0: it is drawn when it is needed.
    """

    def __init__(
        self, vae: AutoencoderKL, folder: Path, batch: int, size: int = POOL, seed: int = 0, workers: int = 0
    ) -> None:
        self.vae, self.folder, self.batch, self.size, self.seed, self.workers = vae, folder, batch, size, seed, workers
        self._held: tuple[int, Encoded] | None = None
        self._ahead: dict[int, list[Future[Drawn]]] = {}
        # Not forked: the threads of torch do not survive it.
        self._drawing = ProcessPoolExecutor(workers, get_context("spawn")) if workers else None

    def number(self, step: int) -> int:
        """Which pool a step draws from."""
        return step * self.batch // (self.size * PASSES)

    def at(self, step: int) -> Encoded:
        """The scenes a step draws from."""
        number = self.number(step)
        if self._held is None or self._held[0] != number:
            self._held = number, self.pool(number)
            self._draw_ahead(number + 1)
        return self._held[1]

    def pool(self, number: int) -> Encoded:
        """One pool: from its file, or drawn and put there."""
        file = self._file(number)
        if not file.exists():
            self._draw_ahead(number)
            drawn: Iterable[Drawn]
            if number in self._ahead:
                drawn = (part.result() for part in self._ahead.pop(number))
            else:
                drawn = (draw_scenes(*part) for part in _parts(self._first(number), self.size))
            made = encode_scenes(self.vae, self._first(number), drawn)
            self.folder.mkdir(parents=True, exist_ok=True)
            with write_atomically(file) as beside:
                torch.save({"latents": made.latents.cpu(), "captions": made.captions}, beside)
            return made
        content = torch.load(file, weights_only=True)
        return Encoded(content["latents"].to(self.vae.device), content["captions"])

    def unseen(self, count: int) -> Encoded:
        """Scenes no training draws."""
        return encode_scenes(self.vae, UNSEEN, (draw_scenes(*part) for part in _parts(UNSEEN, count)))

    def close(self) -> None:
        """Let go of what was drawn ahead, and of those who draw."""
        if self._drawing is not None:
            self._drawing.shutdown(wait=False, cancel_futures=True)

    def _first(self, number: int) -> int:
        return self.seed * _SCENES_PER_SEED + number * self.size

    def _file(self, number: int) -> Path:
        return self.folder / f"{digest(self.vae)}-{self._first(number)}-{self.size}.pt"

    def _draw_ahead(self, number: int) -> None:
        if self._drawing is None or number in self._ahead or self._file(number).exists():
            return
        parts = _parts(self._first(number), self.size)
        self._ahead[number] = [self._drawing.submit(draw_scenes, *part) for part in parts]


def _parts(first: int, count: int) -> list[tuple[int, int]]:
    return [(start, min(_PART, first + count - start)) for start in range(first, first + count, _PART)]


def digest(vae: AutoencoderKL) -> str:
    """A short name of an autoencoder's weights."""
    made = hashlib.sha256()
    for weight in vae.state_dict().values():
        made.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return made.hexdigest()[:12]
