"""What calling hooks costs: per point and number of hooks, and in a run with none, against the stock pipeline.

python tests/benchmarks/dispatch.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from measure import one_thread, ratios, spread, table
from models import MEDIUM, PROMPT

import sdprobe
from sdprobe.core.hook import POINTS
from sdprobe.core.run import Coverage
from sdprobe.model.denoiser.module_hooks import ModuleHooks
from sdprobe.model.denoiser.sdpa_call import read_sdpa_call
from sdprobe.model.denoiser.token_layout import Layout

COUNTS = (0, 1, 10, 50)


def acting(base: type[sdprobe.Observer] | type[sdprobe.Transform], point: str) -> Any:
    """A hook that does nothing at one point: looks, or returns what it was given."""
    same = base is sdprobe.Transform
    hook = type(base.__name__, (base,), {point: lambda self, x, place: x if same else None})()
    hook.modules = ("*",) if point == "activation" else None
    return hook


def value_at(point: str) -> Any:
    """Something of the kind that passes a point."""
    if point == "attention":
        return read_sdpa_call(*(torch.zeros(2, 8, 64, 32) for _ in range(3)))
    return torch.zeros(1, 4, 32, 32)


def dispatch(base: type[sdprobe.Observer] | type[sdprobe.Transform], point: str, count: int, repeats: int) -> float:
    """Microseconds of CPU for one pass of a point."""
    hooks = sdprobe.Hooks(*(acting(base, point) for _ in range(count)))
    x, place, passing = value_at(point), SimpleNamespace(index=0, total=1), getattr(hooks, point)
    passing(x, place)
    before = time.thread_time()
    for _ in range(repeats):
        passing(x, place)
    return (time.thread_time() - before) / repeats * 1e6


class OneCall(torch.nn.Module):
    """An attention module that makes a call and nothing else."""

    heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.tensors = torch.zeros(2, 2, 4, 8)

    def forward(self) -> torch.Tensor:
        return F.scaled_dot_product_attention(self.tensors, self.tensors, self.tensors)


def site(repeats: int, sites: int = 16) -> float:
    """Microseconds of CPU for one attention call that an observer looks at, beyond those of the call itself."""
    network = torch.nn.ModuleDict({f"attn{number}": OneCall() for number in range(sites)})
    latents = torch.zeros(1, 4, 32, 32)
    step: Any = object.__new__(sdprobe.Step)
    vars(step).update(index=0, total=1, latents=latents, model_output=None, rows=("uncond", "cond"), run=None)
    hooks = sdprobe.Hooks(acting(sdprobe.Observer, "attention"))

    def kind_of(module: torch.nn.Module) -> str | None:
        return "cross" if isinstance(module, OneCall) else None

    listening = ModuleHooks(network, kind_of, hooks, Layout({4: (2, 2)}), Coverage())

    def forward() -> None:
        for module in network.values():
            module()

    def passes(look: bool) -> float:
        before = time.thread_time()
        for _ in range(repeats):
            with listening.listen(step) if look else nullcontext():
                forward()
        return (time.thread_time() - before) / repeats / sites * 1e6

    passes(True)
    return statistics.median(passes(True) - passes(False) for _ in range(9))


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = asked.parse_args()
    print(one_thread(), flush=True)
    repeats = 100 if options.quick else 500
    rows = []
    for base in (sdprobe.Observer, sdprobe.Transform):
        for point in POINTS:
            costs = {n: statistics.median(dispatch(base, point, n, repeats) for _ in range(5)) for n in COUNTS}
            each = (costs[50] - costs[0]) / 50
            rows.append([f"{base.__name__}.{point}", *(f"{cost:.2f}" for cost in costs.values()), f"{each:.2f}"])
    head = ["one pass of a point, µs", *(f"{n} hook{'s' * (n != 1)}" for n in COUNTS), "each (target: < 10)"]
    print(table(head, rows), flush=True)
    with torch.no_grad():
        cost = [["an attention call that one observer looks at", f"{site(repeats // 5):.1f}", "60"]]
    print(table(["beyond the call itself, µs", "measured", "target: at most"], cost), flush=True)

    model, steps, size = MEDIUM.model(), 4, 256
    model.pipe.set_progress_bar_config(disable=True)

    def ours(*hooks: Any) -> None:
        sdprobe.sample(model, PROMPT, hooks=hooks, steps=steps, seed=0, height=size, width=size, progress=False)

    def empty() -> None:
        ours(sdprobe.Hooks(), sdprobe.Hooks(sdprobe.Hooks()))

    def looked_at() -> None:
        ours(*(acting(sdprobe.Observer, point) for point in POINTS if point not in ("attention", "activation")))

    def stock() -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        model.pipe(PROMPT, num_inference_steps=steps, generator=generator, height=size, width=size)

    ours()
    stock()
    pairs = 3 if options.quick else 10
    found = [
        ["the stock pipeline", "itself", spread(ratios(stock, stock, pairs))],
        ["no hooks", "the stock pipeline", spread(ratios(stock, ours, pairs))],
        ["no hooks", "itself", spread(ratios(ours, ours, pairs))],
        ["an empty stack", "no hooks", spread(ratios(ours, empty, pairs))],
        ["an observer at every point outside the denoiser", "no hooks", spread(ratios(ours, looked_at, pairs))],
    ]
    print(table([f"{MEDIUM.name}@{size}, {steps} steps", "against", "CPU time of the one over the other's"], found))


if __name__ == "__main__":
    main()
