"""One training run that can stop and go on: weights, their running average, optimiser, random state, step, log.

All that a step depends on is kept in the checkpoint, so a run that was stopped and resumed ends with the same bits as
one that was not (given a budget in steps; with a budget in time the learning rate follows the clock).
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sdprobe.files.atomic_file import write_atomically


@dataclass(frozen=True)
class Budget:
    """How long a training lasts: a number of steps, or of minutes, or until a time of day; one of them."""

    steps: int | None = None
    minutes: float | None = None
    until: str | None = None

    def progress(self, step: int, seconds: float) -> float:
        """How much of the whole is done, 0 to 1, after so many steps and seconds of training."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.minutes is not None:
            return min(1.0, seconds / (60 * self.minutes))
        if self.until is not None:
            now = datetime.now()
            clock = datetime.strptime(self.until, "%H:%M")
            end = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
            if end - now < timedelta(hours=-12):
                end += timedelta(days=1)
            return min(1.0, seconds / max(1e-9, seconds + (end - now).total_seconds()))
        raise ValueError("a budget needs steps, minutes or until")


def rate(progress: float, step: int, warmup: int = 100, constant: float = 0.0) -> float:
    """The factor on the learning rate: a short rise, a constant part, then a cosine down to a fiftieth."""
    fall = max(0.0, (progress - constant) / (1 - constant))
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fall)))


class Training:
    """The loop around a loss.

    Args:
        folder: where checkpoints go; a checkpoint found there is resumed, unless `fresh`.
        modules: what is trained, by name. Averages are kept of all of it.
        lr: the highest learning rate.
        averaging: the decay of the running average of the weights.
        seed: of the generators every random draw of the loop should come from: torch's own, of the processor and, for
            modules on a GPU, of that.
        bf16: within `autocast`, compute in bfloat16 where that is safe; weights stay in float32.
        muon: modules whose matrices are trained by Muon (Jordan et al. 2024) instead of AdamW; needs torch 2.9.

    Attributes:
        step: steps taken.
        seconds: time spent in them.
        generator: the random state, part of the checkpoint.
        device: where the modules are.
    """

    def __init__(
        self,
        folder: Path,
        modules: Mapping[str, nn.Module],
        lr: float,
        weight_decay: float = 1e-3,
        averaging: float = 0.999,
        seed: int = 0,
        fresh: bool = False,
        bf16: bool = False,
        muon: Iterable[nn.Module] = (),
    ) -> None:
        self.folder, self.lr, self.averaging, self.bf16 = folder, lr, averaging, bf16
        self.modules = nn.ModuleDict(dict(modules))
        self.device = next(self.modules.parameters()).device
        self.weights: list[Tensor] = [w for w in self.modules.parameters() if w.requires_grad]
        matrices = [w for module in muon for w in module.parameters() if w.ndim == 2]
        others = [w for w in self.weights if all(w is not matrix for matrix in matrices)]
        groups = [
            {"params": [w for w in others if w.ndim > 1], "weight_decay": weight_decay},
            {"params": [w for w in others if w.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), fused=True)]
        if matrices:
            self.optimisers.append(
                torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        self.average = [w.detach().clone() for w in self.weights]
        self.generator = torch.Generator().manual_seed(seed)
        self._random_there: Tensor | None = None
        if self.device.type == "cuda":
            self._random_there = torch.Generator(self.device).manual_seed(seed).get_state()
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if not fresh and self.path.exists():
            self._resume()

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return self.folder / "checkpoint.pt"

    def run(
        self,
        loss: Callable[[float], Tensor],
        budget: Budget,
        every: float = 180.0,
        on_save: Callable[[], None] | None = None,
        constant: float = 0.0,
    ) -> None:
        """Train until the budget is spent; save every so many seconds and at the end.

        Args:
            loss: the loss of one step, given the progress (0 to 1).
            budget: how long.
            every: seconds between checkpoints.
            on_save: called at every checkpoint, for figures and exports.
            constant: the part of the budget before the learning rate falls.
        """
        # Modules draw (dropout, sampling) from the global generators.
        self._set_random(self.generator.get_state(), self._random_there)
        self.modules.train()
        saved, mean = time.monotonic(), 0.0
        with tqdm(desc=self.folder.name, initial=self.step, unit="step", mininterval=10) as bar:
            while (progress := budget.progress(self.step, self.seconds)) < 1:
                start = time.monotonic()
                value = self._update(loss(progress), rate(progress, self.step, constant=constant))
                mean = value if mean == 0 else 0.98 * mean + 0.02 * value
                self.seconds += time.monotonic() - start
                bar.update()
                bar.set_postfix(loss=f"{mean:.4f}", done=f"{progress:.3f}", refresh=False)
                if time.monotonic() - saved > every:
                    self._save(on_save)
                    saved = time.monotonic()
        self._save(on_save)

    def autocast(self) -> torch.autocast:
        """Inside, a loss is computed in bfloat16 where that was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _update(self, loss: Tensor, factor: float) -> float:
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * factor
            optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        with torch.no_grad():  # early on the average follows closely, or it would remember the random start
            torch._foreach_lerp_(self.average, self.weights, 1 - min(self.averaging, self.step / (self.step + 20)))
        return float(loss.detach())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the modules hold the averaged weights and are in evaluation mode."""
        kept = [w.detach().clone() for w in self.weights]
        self.modules.eval()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, kept)
            self.modules.train()

    def log(self, **figures: float) -> None:
        """Add a line to `log.jsonl` beside the checkpoint."""
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        line |= {k: round(float(v), 4) for k, v in figures.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))

    def _save(self, on_save: Callable[[], None] | None) -> None:
        # Figures may draw random numbers; the run goes on as if they had not.
        state = torch.get_rng_state()
        there = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.generator.set_state(state)
        content = {
            "weights": self.modules.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "random": state,
            "random_there": there,
            "step": self.step,
            "seconds": self.seconds,
        }
        with write_atomically(self.path) as beside:
            torch.save(content, beside)
        if on_save:
            on_save()
        self._set_random(state, there)

    def _set_random(self, state: Tensor, there: Tensor | None) -> None:
        torch.set_rng_state(state)
        if there is not None:
            torch.cuda.set_rng_state(there, self.device)

    def _resume(self) -> None:
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        self.modules.load_state_dict(content["weights"])
        with torch.no_grad():
            torch._foreach_copy_(self.average, content["average"])
        for optimiser, state in zip(self.optimisers, content["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.generator.set_state(content["random"])
        if self.device.type == "cuda" and content["random_there"] is not None:
            self._random_there = content["random_there"]
        self.step, self.seconds = content["step"], content["seconds"]
