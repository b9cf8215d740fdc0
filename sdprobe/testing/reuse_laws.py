"""Laws of reuse: a hook may serve many runs, one after the other or at once, and keeps no data of them."""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdprobe.core.hook import Observer
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.testing.flat_records import difference, records_of, same_run
from sdprobe.testing.law import Broken, law
from sdprobe.testing.trial import Trial, Variant


@law(stage=2)
def a_second_run_equals_the_first(trial: Trial) -> None:
    """One hook in two runs gives the same values and records twice."""
    hook = trial.hook()
    with seeded(0):  # another law checks the use of the global generators
        first = trial.run(hook)
        recorded = trial.records(first, hook)
    with seeded(0):
        second = trial.run(hook)
    if not same_run(first, second):
        raise Broken("the second run with the same hook came to other values than the first")
    if at := difference(recorded, trial.records(second, hook)):
        raise Broken(f"in the second run with the same hook its records are others than in the first: {at}")


@law(stage=2)
def keeps_nothing_of_a_run(trial: Trial) -> None:
    """A run changes neither the hook that was given nor the records of an earlier run."""
    hook = trial.hook()
    described = records_of(hook)
    first = trial.run(hook)
    if at := difference(described, records_of(hook)):
        raise Broken(f"the run left something in the hook it was given: {at}; what a run records is made in start")
    recorded = trial.records(first, hook)
    trial.run(hook, seed=1)
    if at := difference(recorded, trial.records(first, hook)):
        raise Broken(f"a later run changed what an earlier one had recorded: {at}")


@law()
def serves_two_runs_at_once(trial: Trial) -> None:
    """One hook in two runs at the same time, step by step, acts in each as in that run alone."""
    other = trial.hook()
    with_other_seed = trial.run(other, seed=1)
    alone = [trial.alone, (with_other_seed, trial.records(with_other_seed, other))]
    models = [trial.model(Variant(number=i))[0] for i in (0, 1)]
    hook, meeting = trial.hook(), Meeting()
    with ThreadPoolExecutor(2) as threads:
        begun = [threads.submit(trial.run, hook, meeting, model=models[i], seed=i) for i in (0, 1)]
        together = [one.result() for one in begun]
    for (run, recorded), beside in zip(alone, together, strict=True):
        if not same_run(run, beside):
            raise Broken("beside another run with the same hook, a run came to other values")
        if at := difference(recorded, trial.records(beside, hook)):
            raise Broken(f"beside another run with the same hook, it recorded something else: {at}")


@law(stage=3)
def depends_on_the_seed_alone(trial: Trial) -> None:
    """Runs with one seed are equal for any state of the global random generators."""
    hook = trial.hook()
    with seeded(1):
        first = trial.run(hook)
    with seeded(2):
        second = trial.run(hook)
    if not same_run(first, second):
        raise Broken("what it does depends on the global random state: give it a seed and a generator of its own")
    if at := difference(trial.records(first, hook), trial.records(second, hook)):
        raise Broken(f"what it records depends on the global random state: {at}")


@law()
def can_be_pickled(trial: Trial) -> None:
    """A hook's configuration can be pickled, and the unpickled hook acts the same."""
    hook = trial.hook()
    try:
        back = pickle.loads(pickle.dumps(hook))
    except Exception as error:
        raise Broken(f"it cannot be pickled: {error}") from error
    if at := difference(records_of(hook), records_of(back)):
        raise Broken(f"read back it is not what it was: {at}")
    before, after = trial.run(hook), trial.run(back)
    if not same_run(before, after):
        raise Broken("read back it comes to other values")
    if at := difference(trial.records(before, hook), trial.records(after, back)):
        raise Broken(f"read back it records something else: {at}")


class Meeting(Observer):
    """Makes two runs begin each step together."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)

    def latents(self, x: Tensor, step: Step) -> None:
        with suppress(threading.BrokenBarrierError):
            self.barrier.wait(timeout=5)  # if the other run has failed, this one continues

    def finish(self, run: Run) -> None:
        self.barrier.abort()  # no run must wait for one that has ended


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While this is open, the global random generators are in the state of a seed."""
    others: tuple[Any, Any] = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
        finally:
            random.setstate(others[0])
            np.random.set_state(others[1])


LAWS = (
    a_second_run_equals_the_first,
    keeps_nothing_of_a_run,
    serves_two_runs_at_once,
    depends_on_the_seed_alone,
    can_be_pickled,
)
