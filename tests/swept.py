"""One small experiment, for tests of sweeps: in this process, by workers, and in processes that are killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import sdprobe
from sdprobe import experiments

CONDITIONS = {"blank": [("scale-prompt", {"factor": 0.0})], "noisy": [("noise-prompt", {"amount": 0.1})]}
HOW = {"steps": 2, "progress": False}


def brightness(run):
    return run.latents.mean()


def change(run, untouched):
    time.sleep(0.05)  # so that half-way lasts
    return (run.latents - untouched.latents).abs().mean()


@dataclass(frozen=True)
class FailsWithout:
    """A measure that fails while a file is not there."""

    path: str

    def __call__(self, run, untouched, case):
        if case.seed == 1 and not Path(self.path).exists():
            raise RuntimeError(f"no file for seed {case.seed}")
        return True


def some(seeds: int) -> list[experiments.Case]:
    return experiments.cases("a red circle", seeds=range(seeds))


def sweep(seeds: int, model=None, measures=(brightness, change), conditions=CONDITIONS, **how) -> experiments.Result:
    return experiments.experiment(model or sdprobe.load(), some(seeds), conditions, measures, **HOW | how)


def files(folder: Path) -> dict[str, bytes]:
    """The files of jobs, each by its name; not those that a killed process had begun to write."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))}


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Which files these are, also where they are written again with the same content."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.glob("[!.]*"))}


def wait_for(folder: Path, count: int, seconds: float = 100) -> None:
    """Wait until so many files are there."""
    end = time.monotonic() + seconds
    while not folder.is_dir() or len(files(folder)) < count:
        assert time.monotonic() < end, f"{count} files were not written in {seconds} s"
        time.sleep(0.005)


@contextmanager
def meanwhile(act) -> Iterator[None]:
    """Do something in a thread while this is open; what it raises is raised at the end."""
    errors = []

    def caught() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=caught)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
        assert not errors, errors
