"""`Progress`: a progress bar, as an observer."""

from __future__ import annotations

from torch import Tensor
from tqdm.auto import tqdm

from sdprobe.core.hook import Observer
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.core.written_values import count


class Progress(Observer):
    """Show a progress bar. `sample` adds one unless it gets ``progress=False``.

    >>> import sdprobe
    >>> bar = sdprobe.Progress(desc="circles")
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[bar], steps=2, progress=False)
    >>> run[bar].done
    2

    Args:
        desc: a text before the bar.
    """

    def __init__(self, desc: str | None = None) -> None:
        self.desc = desc

    def start(self, run: Run) -> None:
        self.run, self.done = run, 0
        self.bar = tqdm(total=run.settings.steps, desc=self.desc)

    def noise_pred(self, x: Tensor, step: Step) -> None:
        self.done = step.index + 1
        self.bar.total = step.total  # a second-order scheduler calls the denoiser about twice per step
        self.bar.update(self.done - self.bar.n)  # a resumed run does not begin at step 0

    def finish(self, run: Run) -> None:
        self.bar.close()
        del self.bar  # a bar cannot be copied or pickled

    def restore(self, records: HookRecords, run: Run) -> None:
        self.run, self.done = run, count(records.values["done"])
