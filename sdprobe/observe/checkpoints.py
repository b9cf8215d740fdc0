"""`Checkpoints`: keep the states of a run, to resume it later."""

from __future__ import annotations

from torch import Tensor

from sdprobe.core.hook import Observer
from sdprobe.core.run import Run, State, Step


class Checkpoints(Observer):
    """Keep the state of a run at each of its steps; `sdprobe.resume` continues from one.

    A state holds the latents, the scheduler with its memory of earlier steps, and the generator of the noise. They
    stay on the run's device. Use `sdprobe.only` to keep some steps only: ``only(Checkpoints(), steps={10, 20})``.

    >>> import sdprobe
    >>> checkpoints = sdprobe.Checkpoints()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[checkpoints], steps=4, seed=0, progress=False)
    >>> run[checkpoints].states[2]
    State(index=2)

    Attributes:
        states: (in a run) a `State` for each step kept, by step number.
    """

    def start(self, run: Run) -> None:
        self.states: dict[int, State] = {}

    def latents(self, x: Tensor, step: Step) -> None:
        # The step holds the latents from before the hooks of this step: hooks that change them will do so again.
        self.states[step.index] = step.state()
