"""Keep where a run stands, so that it can be gone on from."""

from __future__ import annotations

from torch import Tensor

from sdprobe.core.hook import Observer
from sdprobe.core.run import Run, State, Step


class Checkpoints(Observer):
    """Keep what a run needs to go on from each of its steps; `sdprobe.resume` goes on from one.

    That is the latents, the scheduler with what it remembers of earlier steps, and the generator of the noise. They
    stay where the run computes. `sdprobe.only` limits it to some steps: ``only(Checkpoints(), steps={10, 20})``.

    >>> import sdprobe
    >>> checkpoints = sdprobe.Checkpoints()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[checkpoints], steps=4, seed=0, progress=False)
    >>> run[checkpoints].states[2]
    State(index=2)

    Attributes:
        states: (in a run) a `State` for each step kept, by the step's number.
    """

    def start(self, run: Run) -> None:
        self.states: dict[int, State] = {}

    def latents(self, x: Tensor, step: Step) -> None:
        # At this point the step still holds the latents as they came: hooks that change them will do so again.
        self.states[step.index] = step.state()
