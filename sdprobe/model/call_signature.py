"""What a pipeline's call takes, where a class of one's own passes its arguments on to the one it derives from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class CallSignature:
    """The signatures of ``__call__`` along the classes of a pipeline, from its own to the one that names everything.

    Args:
        levels: the signatures, without ``self``. Each but the last passes on what it does not name itself.
    """

    levels: tuple[inspect.Signature, ...]

    @classmethod
    def of(cls, pipe: Any) -> CallSignature:
        """That of a pipeline's call."""
        if (known := _known.get(type(pipe))) is not None:
            return known
        levels = []
        for kind in type(pipe).__mro__:
            if "__call__" not in vars(kind):
                continue
            own = inspect.signature(vars(kind)["__call__"])
            levels.append(own.replace(parameters=list(own.parameters.values())[1:]))
            if not any(map(_many, own.parameters.values())):
                break
        _known[type(pipe)] = made = cls(tuple(levels))
        return made

    def default(self, name: str) -> Any:
        """The default of an argument. Raises KeyError for one that the call does not name, or that has none."""
        for level in self.levels:
            if name in level.parameters and _usual(level.parameters[name]):
                return level.parameters[name].default
        raise KeyError(name)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundCall:
        """A call's arguments by name, those left out filled in. Raises TypeError for what the call does not take."""
        given: dict[str, Any] = {}
        names: tuple[str, ...] = ()
        rest, further = tuple(args), dict(kwargs)
        for depth, level in enumerate(self.levels):
            # What a class names itself, it is taken to pass on under the same name.
            left = [p for p in level.parameters.values() if p.name not in given or _many(p)]
            signature = level.replace(parameters=left)
            bound = (signature.bind_partial if depth else signature.bind)(*rest, **further)
            named = [p.name for p in left if p.kind is p.POSITIONAL_OR_KEYWORD]
            gathered = {p.kind: bound.arguments.pop(p.name) for p in left if p.name in bound.arguments and _many(p)}
            passed_on = gathered.get(inspect.Parameter.VAR_POSITIONAL, ())
            names += tuple(named[: len(rest) - len(passed_on)])
            given |= bound.arguments
            rest, further = passed_on, gathered.get(inspect.Parameter.VAR_KEYWORD, {})
            if not rest and not further:
                break
        given |= further  # names that a pipeline still takes and no longer writes out
        usual = {n: p.default for level in reversed(self.levels) for n, p in level.parameters.items() if _usual(p)}
        return BoundCall(tuple(args), dict(kwargs), names, usual | given, usual)


_known: WeakKeyDictionary[type, CallSignature] = WeakKeyDictionary()  # reading one takes long


@dataclass(frozen=True)
class BoundCall:
    """The arguments of one call.

    Args:
        args: those given by place.
        kwargs: those given by name.
        names: the names of those given by place.
        arguments: all of them by name, with the defaults of those left out.
        usual: the defaults.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    names: tuple[str, ...]
    arguments: Mapping[str, Any]
    usual: Mapping[str, Any]

    def replaced(self, new: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments as they were given, with some replaced or added."""
        by_place = dict(zip(self.names, self.args, strict=False))
        args = tuple(new.get(name, value) for name, value in by_place.items()) + self.args[len(by_place) :]
        return args, {**self.kwargs, **{name: value for name, value in new.items() if name not in by_place}}


def _many(parameter: inspect.Parameter) -> bool:
    return parameter.kind in VARIADIC


def _usual(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty
