"""What capturing cross-attention at every step costs, as a share of the plain step's CPU time.

    python tests/benchmarks/attention_capture.py [--quick] [--sd15]

In place: the CPU time inside the capture (the forward hooks of each site, the passing of its call, the hook itself with
the probabilities, and the opening and closing of it all per step) over that of the U-Net without it, in
one and the same run. The kernel's own call is the model's, not the capture's. What the clock itself takes is counted
against the capture. End to end: runs with and without the hook in interleaved pairs; beside them pairs of plain runs,
whose spread says what such a ratio is worth.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from measure import Account, one_thread, ratios, spread, table
from models import MEDIUM, PROMPT, SD15, TOKENS, Shape

import sdprobe
from sdprobe.model.denoiser import attention_site, kernel_logsumexp, module_hooks
from sdprobe.model.families.stable_diffusion import StableDiffusion

TARGETS = {("sd15", 256): (0.25, 0.5), ("med", 512): (0.6, 2.0), ("med", 256): (2.0, 4.0)}  # percent: 12, 77 columns
COLUMNS = (12, TOKENS)


@contextmanager
def metered(account: Account) -> Iterator[None]:
    """While this is open, a run books its time to the U-Net's call ("step") and to the "capture" in it."""
    listen, read = module_hooks.ModuleHooks.listen, attention_site.read_sdpa_call
    flash = kernel_logsumexp.KERNELS["cpu"]

    def timed_read(*args: Any, **kwargs: Any) -> sdprobe.Attention:
        call = read(*args, **kwargs)
        return replace(call, kernel=account.booking("step", call.kernel))

    @contextmanager
    @functools.wraps(listen)
    def timed_listen(self: module_hooks.ModuleHooks, step: sdprobe.Step) -> Iterator[None]:
        with account.booked("capture"), listen(self, step), account.booked("step"):
            yield

    with ExitStack() as patched:
        for name in ("enter", "leave", "receive"):
            timed = account.booking("capture", getattr(attention_site.AttentionSite, name))
            patched.enter_context(patch.object(attention_site.AttentionSite, name, timed))
        booked = {choice: account.booking("step", kernel) for choice, kernel in flash.items()}
        patched.enter_context(patch.dict(flash, booked))
        patched.enter_context(patch.object(attention_site, "read_sdpa_call", timed_read))
        patched.enter_context(patch.object(module_hooks.ModuleHooks, "listen", timed_listen))
        denoise = account.booking("step", StableDiffusion.denoise)
        patched.enter_context(patch.object(StableDiffusion, "denoise", denoise))
        yield


def measure(shape: Shape, size: int, steps: int, pairs: int) -> list[list[object]]:
    """The rows of the table for one model at one size."""
    model = shape.model()

    def run(*hooks: sdprobe.Observer, steps: int = steps) -> None:
        sdprobe.sample(model, PROMPT, hooks=hooks, steps=steps, seed=0, height=size, width=size, progress=False)

    hooks = {n: sdprobe.AttentionMaps(None if n == TOKENS else list(range(n))) for n in COLUMNS}
    run(*hooks.values(), steps=1)
    shares: dict[int, list[float]] = {n: [] for n in COLUMNS}
    seconds: list[float] = []
    for _ in range(pairs):
        for n in COLUMNS:
            with metered(account := Account()):
                run(hooks[n])
            shares[n].append(100 * account.seconds["capture"] / account.seconds["step"])
            seconds.append(account.seconds["step"] / steps)
    found: list[list[object]] = [
        [f"{shape.name}@{size}", steps, spread(seconds), "none, again", "", "", spread(ratios(run, run, pairs))]
    ]
    for n, target in zip(COLUMNS, TARGETS[shape.name, size], strict=True):
        ends = ratios(run, functools.partial(run, hooks[n]), pairs)
        name, share = f"{shape.name}@{size}", spread(shares[n], ".2f")
        found.append([name, steps, "", f"{n} columns", share, target, spread(ends)])
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--quick", action="store_true", help="the smallest model only")
    asked.add_argument("--sd15", action="store_true", help="the real U-Net of SD 1.5 too: 3.4 GB, minutes")
    options = asked.parse_args()
    print(one_thread(), flush=True)
    rows = measure(MEDIUM, 256, steps=4, pairs=3 if options.quick else 5)
    if not options.quick:
        rows += measure(MEDIUM, 512, steps=2, pairs=3)
    if options.sd15:
        rows += measure(SD15, 256, steps=2, pairs=3)
    head = ["model", "steps", "plain step, CPU s", "capture", "in place, % of a step", "target", "end to end, ratio"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
