"""`ActivationListener`: the tensors of named modules of one network, passed through the hooks that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from sdprobe.core.activations.form import ActivationKey
from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.coverage import Coverage
from sdprobe.core.hook import OUTSIDE, SIDES
from sdprobe.core.site import Site
from sdprobe.model.module_tensors import pass_inputs, pass_output

SiteOf = Callable[[str, str, str, int, Tensor], Site]
"""Makes the site of a tensor from the module's name, the side, the stream, the module's call and the tensor."""


class ActivationListener:
    """Modules of one network that hooks ask for at the point ``activation``.

    Args:
        modules: the network's modules by name.
        hooks: the run's hooks.
        coverage: records which were seen.
    """

    def __init__(self, modules: Mapping[str, nn.Module], hooks: Hooks, coverage: Coverage) -> None:
        acting = hooks.at("activation")
        self._coverage = coverage
        self.asked = [
            _Asked(name, side, module, own)
            for name, module in (modules.items() if len(acting) else ())
            for side in SIDES
            if len(own := _on_side(acting.at("activation", name), side))
        ]
        coverage.asked.update({asked.label: "activation" for asked in self.asked})
        here = {id(leaf): leaf for asked in self.asked for leaf in asked.hooks}.values()
        # The streams of a hook with modules in several networks are known only when all of them have run.
        self._to_check = [leaf for leaf in here if leaf.strict and leaf.streams and len(_networks(leaf)) == 1]

    @property
    def names(self) -> list[str]:
        """The names of the modules."""
        return [asked.name for asked in self.asked]

    @contextmanager
    def listen(self, site_of: SiteOf, aligned: Any = None) -> Iterator[Callable[[], list[_Asked]]]:
        """While this is open, the modules' tensors are passed. Gives a function that returns what did not run.

        Args:
            site_of: makes the sites.
            aligned: the order of the rows' tokens (`AlignedRows`), where the image follows texts of different lengths.
        """
        handles: list[Any] = []
        passes = [_Pass(asked, site_of, self._coverage.passed, aligned) for asked in self.asked]
        try:
            for own in passes:
                handles.append(own.register())
            yield lambda: [own.asked for own in passes if not own.calls]
            for own in passes:
                self._account(own)
            self._refuse_streams(passes)
        finally:
            for handle in handles:
                handle.remove()

    def _account(self, own: _Pass) -> None:
        label, asked = own.asked.label, own.asked
        if own.calls:
            self._coverage.seen[label] = self._coverage.seen.get(label, 0) + 1
        if own.calls and not any(map(asked.asks_for, own.streams)):
            self._coverage.missed[label] = (
                f"nobody asks for its streams: {', '.join(dict.fromkeys(own.streams)) or 'it has no tensor here'}"
            )

    def _refuse_streams(self, passes: list[_Pass]) -> None:
        """Refuse, after the first pass of all of a hook's modules, a pattern that fits none of their streams."""
        left_out = []
        for leaf in self._to_check:
            own = [one for one in passes if any(leaf is other for other in one.asked.hooks)]
            if not all(one.calls for one in own):
                left_out.append(leaf)  # by a cache; what did not run may have it
                continue
            streams = dict.fromkeys(stream for one in own for stream in one.streams)
            for pattern in leaf.streams or ():
                if not any(fnmatchcase(stream, pattern) for stream in streams):
                    raise ValueError(
                        f"{leaf!r}: the stream pattern {pattern!r} fits none of the streams of its modules: "
                        f"{', '.join(streams) or '(none)'}"
                    )
        self._to_check = left_out


@dataclass
class _Asked:
    """A side of a module, and the hooks that ask for it."""

    name: str
    side: str
    module: nn.Module
    hooks: Hooks
    by_stream: dict[str, Hooks] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name} ({self.side})"

    def hooks_of(self, stream: str) -> Hooks:
        if stream not in self.by_stream:
            self.by_stream[stream] = self.hooks.where(lambda leaf: _wants(leaf.streams, stream))
        return self.by_stream[stream]

    def asks_for(self, stream: str) -> bool:
        return bool(len(self.hooks_of(stream)))


class _Pass:
    """A side of a module in one pass of its network."""

    def __init__(self, asked: _Asked, site_of: SiteOf, passed: dict[str, None], aligned: Any = None) -> None:
        self.asked, self.site_of, self.passed, self.aligned = asked, site_of, passed, aligned
        self.calls = 0
        self.streams: list[str] = []

    def register(self) -> Any:
        module = self.asked.module
        if self.asked.side == "input":
            return module.register_forward_pre_hook(self._on_input, with_kwargs=True)
        return module.register_forward_hook(self._on_output)

    def _on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls += 1
        return pass_inputs(module, self.asked.name, args, kwargs, self)

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        self.calls += 1
        return pass_output(module, self.asked.name, output, self)

    def asks_for(self, stream: str) -> bool:
        return self.asked.asks_for(stream)

    def __call__(self, stream: str, x: Tensor) -> Tensor:
        site = self.site_of(self.asked.name, self.asked.side, stream, self.calls - 1, x)
        self.streams.append(site.stream)
        hooks = self.asked.hooks_of(site.stream)
        if not len(hooks):
            return x
        self.passed.setdefault(str(ActivationKey.of(site)))
        if self.aligned is None or site.grid is None or site.text is None or not self.aligned.fits(x):
            return hooks.activation(x, site)
        shown = self.aligned.shown(x, 1)
        new = hooks.activation(shown, site)
        return x if new is shown else self.aligned.own(new, 1)


def _on_side(hooks: Hooks, side: str) -> Hooks:
    return hooks.where(lambda leaf: side in leaf.sides)


def _wants(streams: tuple[str, ...] | None, stream: str) -> bool:
    return streams is None or any(fnmatchcase(stream, pattern) for pattern in streams)


def _networks(leaf: Hook) -> set[str]:
    """Return the networks that a hook's patterns name: a part outside the denoiser, or the denoiser, ``""``."""
    return {pattern.split(".")[0] if pattern.startswith(OUTSIDE) else "" for pattern in leaf.modules or ()}
