"""`on` and `watch`: make a hook from a function."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from sdprobe.core.hook import POINTS, Observer, Transform, patterns

Function = Callable[..., Any]
Patterns = str | Sequence[str] | None
AT_MODULES = ("attention", "activation")
LISTEN = {"modules": AT_MODULES, "kinds": ("attention",), "sides": ("activation",), "streams": ("activation",)}
"""The points at which each of these says where a hook listens."""


def on(
    point: str,
    function: Function,
    *,
    modules: str | Sequence[str] | None = None,
    kinds: str | Sequence[str] | None = None,
    sides: str | Sequence[str] = ("output",),
    streams: str | Sequence[str] | None = None,
) -> Transform:
    """Make a transform from a function: its return value replaces the value at the point.

    >>> import sdprobe
    >>> def damp(x, step):
    ...     return 0.9 * x
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[sdprobe.on("noise_pred", damp)], steps=3, progress=False
    ... )
    >>> sdprobe.on("noise_pred", damp), sdprobe.on("noise_pred", lambda x: 0.9 * x)
    (on('noise_pred', damp), on('noise_pred', lambda of line 1))
    >>> sdprobe.on("noise", damp)
    Traceback (most recent call last):
    ValueError: there is no point 'noise'; did you mean 'noise_pred'? The points: token_embeds, ...

    Args:
        point: the point's name.
        function: takes the value, or the value and the point's second argument: ``f(x)`` or ``f(x, step)``.
        modules: at ``attention`` and ``activation``, patterns on dotted module names; ``activation`` needs them.
        kinds: at ``attention``, one or more of ``"cross"``, ``"self"``, ``"joint"``, ``"image_prompt"``; None for all.
        sides: at ``activation``, ``"output"`` for what the modules give, ``"input"`` for what they take.
        streams: at ``activation``, patterns on the streams of modules of several tensors (`Site.stream`); None for all.

    Raises:
        ValueError: for an unknown point, naming the nearest, and for modules or kinds at a point that has none.
        TypeError: for something that is not a function of one or two arguments.
    """
    made: Transform = _made("on", Transform, point, function, Listening.of(modules, kinds, sides, streams))
    return made


def watch(
    point: str,
    function: Function,
    *,
    modules: str | Sequence[str] | None = None,
    kinds: str | Sequence[str] | None = None,
    sides: str | Sequence[str] = ("output",),
    streams: str | Sequence[str] | None = None,
) -> Observer:
    """Make an observer from a function, which receives the value at the point and returns nothing.

    The function stores its results outside the run, so two runs fill the same list; write an `Observer` class to keep
    them apart.

    >>> import sdprobe
    >>> norms = []
    >>> def norm(x):
    ...     norms.append(x.norm().item())
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[sdprobe.watch("latents", norm)], steps=3, progress=False
    ... )
    >>> len(norms)
    3

    Args:
        point: the point's name.
        function: takes the value, or the value and the point's second argument; a list's ``append`` works too.
        modules: as for `sdprobe.on`.
        kinds: as for `sdprobe.on`.
        sides: as for `sdprobe.on`.
        streams: as for `sdprobe.on`.

    Raises:
        ValueError: as for `sdprobe.on`.
        TypeError: as for `sdprobe.on`; during a run, if the function returns a value.
    """
    made: Observer = _made("watch", Observer, point, function, Listening.of(modules, kinds, sides, streams))
    return made


class Listening(NamedTuple):
    """At which modules a hook listens, and to what."""

    modules: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    sides: tuple[str, ...] = ("output",)
    streams: tuple[str, ...] | None = None

    @classmethod
    def of(cls, modules: Patterns, kinds: Patterns, sides: str | Sequence[str], streams: Patterns) -> Listening:
        return cls(patterns(modules), patterns(kinds), patterns(sides) or (), patterns(streams))

    @property
    def said(self) -> dict[str, tuple[str, ...] | None]:
        """What differs from the defaults, by name."""
        return {name: own for name, own in self._asdict().items() if own != Listening._field_defaults[name]}


class OfFunction:
    """Common part of hooks made from a function."""

    verb: str
    point: str

    def __init__(self, function: Function, listening: Listening) -> None:
        self.function = function
        self.modules, self.kinds, self.sides, self.streams = listening
        self.takes = _takes(function)

    def said(self, x: Any, place: Any) -> Any:
        """Call the function and return its result."""
        return self.function(x) if self.takes == 1 else self.function(x, place)

    def __repr__(self) -> str:
        rest = "".join(f", {name}={value!r}" for name, value in self.listening.said.items())
        return f"{self.verb}({self.point!r}, {name_of(self.function)}{rest})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.verb, self.point, self.function, self.listening)

    @property
    def listening(self) -> Listening:
        return Listening(self.modules, self.kinds, self.sides, self.streams)


def name_of(function: Function) -> str:
    """Return a function's name, or for a lambda its line number."""
    name = getattr(function, "__qualname__", type(function).__name__)
    code = getattr(function, "__code__", None)
    if name.endswith("<lambda>") and code is not None:
        return f"lambda of line {code.co_firstlineno}"
    return str(name.rpartition("<locals>.")[2])


def _made(verb: str, base: type, point: str, function: Function, listening: Listening) -> Any:
    if point not in POINTS:
        near = difflib.get_close_matches(str(point), POINTS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no point {point!r}; {hint}The points: {', '.join(POINTS)}")
    if not callable(function):
        raise TypeError(f"{verb}({point!r}, ...) takes a function of the value and the place, not {function!r}")
    for name, points in LISTEN.items():
        if name in listening.said and point not in points:
            raise ValueError(f"{name} say where {' and '.join(points)} listen; the point {point!r} has none")
    if point == "activation" and not listening.modules:
        raise ValueError(f"{verb}('activation', ...) must say of which modules: modules='mid_block', or a pattern")
    return _class(verb, base, point)(function, listening)


@cache
def _class(verb: str, base: type, point: str) -> type:
    def act(self: Any, x: Any, place: Any) -> Any:
        return self.said(x, place)

    return type(verb, (OfFunction, base), {"verb": verb, "point": point, point: act})


def _takes(function: Function) -> int:
    """Return with how many arguments a function is called: two if it takes two, else one."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return 2
    for count in (2, 1):
        try:
            signature.bind(*range(count))
            return count
        except TypeError:
            continue
    raise TypeError(f"{name_of(function)}{signature} must take the value, or the value and the place")


def _again(verb: str, point: str, function: Function, listening: Listening) -> Any:
    return _made(verb, Transform if verb == "on" else Observer, point, function, listening)
