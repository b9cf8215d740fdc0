"""One call of a `ModularPipeline`: its arguments, and the blocks of its loop, which are listened to too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from sdprobe.model.call_signature import BoundCall
from sdprobe.model.loading import task_pipeline
from sdprobe.model.unknown.modular_pipeline import is_modular, loops_of
from sdprobe.stock_pipelines.call_arguments import CallArguments
from sdprobe.stock_pipelines.pipeline_listener import Call, intercept_method
from sdprobe.stock_pipelines.unknown_call import UnknownCall

OWN = ("state", "output")
"""What a call takes beside the inputs of the blocks."""


@contextmanager
def naming_task_pipeline(pipe: Any) -> Iterator[None]:
    """While this is open, what is refused for a modular pipeline is said with the pipeline that has all points."""
    try:
        yield
    except (ValueError, KeyError) as error:
        if is_modular(pipe) and (name := task_pipeline(pipe)) is not None:
            error.add_note(f"All points, and the words of prompts, are known of {name}: make it of the same parts")
        raise


def modular_arguments(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallArguments:
    """Return what a call is asked for: the inputs of the blocks, those of a given state, and those of the call."""
    usual = {name: value for name, value in pipe.default_call_parameters.items() if name is not None}
    scale = getattr(getattr(pipe, "guider", None), "guidance_scale", None)
    usual = {"guidance_scale": scale, **usual}
    names = OWN[: len(args)]
    own = {**dict(zip(names, args, strict=False)), **kwargs}
    state = own.get("state")
    given = {**({} if state is None else state.values), **{name: own[name] for name in own if name not in OWN}}
    if given.get("image") is None:
        usual.pop("strength", None)  # of blocks that are left out
    return CallArguments(BoundCall(tuple(args), dict(kwargs), names, usual | given, usual))


class ModularCall(UnknownCall):
    """One call of a modular pipeline: latents pass where a block of its loop begins a step with them."""

    begun_by_block = False
    """Whether such a block has been seen; a loop of another kind is listened to as that of any pipeline."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this is open, what the pipeline and the blocks of its loops do is told."""
        with ExitStack() as wired:
            wired.enter_context(super().listening())
            for loop in loops_of(self.model.pipe):
                wired.enter_context(intercept_method(loop, "loop_step", self, {"pipeline": self.on_loop_step}))
            yield

    def on_loop_step(self, stock: Call, components: Any, state: Any, **told: Any) -> Any:
        """A loop begins a step: its latents are those that its networks are called with."""
        latents, main = getattr(state, "latents", None), self.steps.main
        if isinstance(latents, Tensor) and main is not None and self.passed is None:
            self.steps.current, self.begun_by_block = main, True
            if main.index == main.begun_at and isinstance(told.get("t"), Tensor):
                main.align(told["t"])
            new = self.pass_latents(latents)
            if new is not latents:
                state.latents = new
        return stock(components, state, **told)

    def pass_made(self, found: Any) -> Any:
        """What a scheduler has made is kept; it passes when the next step begins."""
        if not self.begun_by_block:
            return super().pass_made(found)
        made = found[0] if isinstance(found, tuple) else getattr(found, "prev_sample", None)
        if isinstance(made, Tensor):
            self.last = made
        else:
            self.run.coverage.note_unknown("what the scheduler makes: it has no prev_sample")
        return found

    def on_return(self, found: Any) -> None:
        """The call has ended: it returns its state, one value of it, or several by name."""
        images = found.get("images") if isinstance(found, Mapping) else getattr(found, "images", found)
        super().on_return((images,))
