"""`RunControl`: what the hooks of a run ask of its loop: to leave rows out of a step, and to end after one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from sdprobe.core.rows import Role, Row


class RunControl:
    """What the hooks of a run have asked of its loop.

    >>> control = RunControl()
    >>> control.leave_out(3, "uncond")
    >>> control.stop(3)
    >>> control.rows_kept(3, ()), control.stopped_at
    ([], 3)

    Attributes:
        stopped_at: the step after which the loop ends; None for the last.
        on_stop: called when a hook asks to end; None in a loop that looks for itself.
    """

    def __init__(self) -> None:
        self.stopped_at: int | None = None
        self.on_stop: Callable[[], None] | None = None
        self._left_out: dict[int, set[Role]] = defaultdict(set)
        self._given: int | None = None  # the step of which the denoiser was given its rows

    def stop(self, index: int) -> None:
        """End the run after a step. The first step that was asked for counts."""
        if self.stopped_at is None:
            if self.on_stop is not None:
                self.on_stop()
            self.stopped_at = index

    def leave_out(self, index: int, role: Role) -> None:
        """Leave the rows of a role out of a step. Raises RuntimeError once the denoiser was given its rows."""
        if self._given == index:
            raise RuntimeError(
                f"rows can be left out of step {index} at latents only: the denoiser has been given them already"
            )
        self._left_out[index].add(role)

    def rows_kept(self, index: int, rows: tuple[Row, ...]) -> list[int]:
        """Return the positions of the rows that a step keeps; from then on none can be left out."""
        self._given = index
        return [k for k, row in enumerate(rows) if row.role not in self._left_out[index]]


class ControlOfSome(RunControl):
    """The control that a hook has which is limited to some of a run's images: it can end the run, which has one loop.

    Args:
        whole: the control of the whole run.
        images: how many of the images it is limited to, and how many there are.
    """

    def __init__(self, whole: RunControl, images: tuple[int, int]) -> None:
        super().__init__()
        self.whole, self.images = whole, images

    def stop(self, index: int) -> None:
        self.whole.stop(index)

    def leave_out(self, index: int, role: Role) -> None:
        some, every = self.images
        raise ValueError(
            f"rows of the role {role!r} are left out for all {every} images of a run or for none, and this hook is "
            f"limited to {some} of them"
        )
