"""`listen_beside`: modules of the parts beside the networks, such as text encoders, during one call of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.rows import Row
from sdprobe.core.run import Run
from sdprobe.core.site import OutsideSite
from sdprobe.model.activation_listener import ActivationListener
from sdprobe.model.denoiser.compiled_parts import CompiledParts, names_as_written
from sdprobe.model.denoiser.missed_attention import NOT_RUN
from sdprobe.model.denoiser.token_places import heads_of
from sdprobe.model.unknown.attention_kinds import attention_kinds
from sdprobe.model.unknown.unplaced import unplaced


@contextmanager
def listen_beside(
    parts: Mapping[str, nn.Module], hooks: Hooks, run: Run, rows: Callable[[int], tuple[Row, ...]]
) -> Iterator[None]:
    """While this is open, the tensors of modules that hooks name by their part are passed: one pass for the whole call.

    Args:
        parts: the parts by name.
        hooks: the run's hooks.
        run: the run.
        rows: what the entries of a tensor are, by their number.
    """
    with ExitStack() as opened:
        for part, network in parts.items():
            own = hooks.at("activation").where(lambda leaf, part=part: _names(leaf, part))  # type: ignore[misc]
            if len(own):
                opened.enter_context(_listen(part, network, own, run, rows))
        yield


@contextmanager
def _listen(
    part: str, network: nn.Module, hooks: Hooks, run: Run, rows: Callable[[int], tuple[Row, ...]]
) -> Iterator[None]:
    modules = {f"{part}.{name}": module for name, module in names_as_written(network).items()}
    attention = attention_kinds(modules)
    listener = ActivationListener(modules, hooks, run.coverage)
    compiled = CompiledParts.of(network).around(name.removeprefix(f"{part}.") for name in listener.names)

    def site_of(name: str, side: str, stream: str, call: int, x: Tensor) -> OutsideSite:
        grid, image = unplaced(name, stream, x, attention)
        of = (name, "activation", part, grid, heads_of(modules, name, side, x), image, None)
        entries = rows(len(x)) if x.ndim else ()
        return OutsideSite(*of, stream=stream, side=side, call=call, during=run, entries=entries)

    with listener.listen(site_of) as not_run, compiled.run_as_written():
        yield
        run.coverage.missed.update({asked.label: NOT_RUN for asked in not_run()})


def _names(leaf: Hook, part: str) -> bool:
    """Whether a hook names a part beside the networks, which patterns such as ``*`` do not."""
    heads = [pattern.split(".")[0] for pattern in leaf.modules or ()]
    return any(head[:1].isalpha() and fnmatchcase(part, head) for head in heads)
