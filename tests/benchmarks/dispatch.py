"""What calling hooks costs: per hook and point, and a run with none against the stock pipeline.

python tests/benchmarks/dispatch.py [--quick]
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace
from typing import Any

import torch
from measure import one_thread, ratios, spread, table
from models import MEDIUM, PROMPT

import sdprobe


class Looking(sdprobe.Observer):
    """Looks, and does nothing."""

    def latents(self, x: torch.Tensor, step: sdprobe.Step) -> None: ...


class Same(sdprobe.Transform):
    """Returns what it was given."""

    def latents(self, x: torch.Tensor, step: sdprobe.Step) -> torch.Tensor:
        return x


def dispatch(kind: type[sdprobe.Observer] | type[sdprobe.Transform], count: int, repeats: int) -> float:
    """Microseconds of CPU for one pass of the point ``latents``."""
    hooks = sdprobe.Hooks(*(kind() for _ in range(count)))
    x, step = torch.zeros(1, 4, 32, 32), SimpleNamespace(index=0, total=1)
    place: Any = step
    hooks.latents(x, place)
    before = time.thread_time()
    for _ in range(repeats):
        hooks.latents(x, place)
    return (time.thread_time() - before) / repeats * 1e6


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = asked.parse_args()
    print(one_thread(), flush=True)
    repeats = 200 if options.quick else 1000
    rows = []
    for kind in (Looking, Same):
        for count in (0, 1, 10, 50):
            passes = [dispatch(kind, count, repeats) for _ in range(5)]
            each = spread([p / count for p in passes], ".2f") if count else ""
            rows.append([kind.__mro__[1].__name__, count, spread(passes, ".2f"), each])
    print(table(["hooks", "how many", "one point, µs", "per hook and point, µs (target: < 10)"], rows), flush=True)

    model, steps, size = MEDIUM.model(), 4, 256
    model.pipe.set_progress_bar_config(disable=True)

    def ours() -> None:
        sdprobe.sample(model, PROMPT, steps=steps, seed=0, height=size, width=size, progress=False)

    def stock() -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        model.pipe(PROMPT, num_inference_steps=steps, generator=generator, height=size, width=size)

    ours()
    stock()
    pairs = 3 if options.quick else 10
    found = [
        ["stock, again", spread(ratios(stock, stock, pairs))],
        ["no hooks", spread(ratios(stock, ours, pairs))],
    ]
    print(table([f"{MEDIUM.name}@{size}, {steps} steps", "CPU time over the stock pipeline's"], found))


if __name__ == "__main__":
    main()
