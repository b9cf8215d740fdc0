"""`to_config` and `from_config`: hooks as names and configurations, to store an experiment in a file."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.function_hooks import OfFunction
from sdprobe.core.function_hooks import name_of as function_name
from sdprobe.core.given_hooks import Given, each
from sdprobe.core.limits.after_every_when import When
from sdprobe.core.limits.limited_hook import Limit, LimitedHook, NamedLimit
from sdprobe.core.registry import built, create, name_of, resolve
from sdprobe.core.torch_names import name_of as dtype_name

WRITABLE = "what can be written are texts, numbers, None, and lists, sets and dictionaries of them"
SETTINGS = ("modules", "kinds", "sides", "streams", "strict", "needs_grad")
LONGEST = 10_000


def to_config(hooks: Given) -> list[list[Any]]:
    """Write hooks as pairs of name and configuration, which JSON can hold and `sdprobe.sample` takes.

    >>> import json
    >>> import sdprobe
    >>> swap = sdprobe.only(sdprobe.ReplaceToken("circle", with_="star"), steps=range(2))
    >>> text = json.dumps(sdprobe.to_config([swap, sdprobe.LatentRecorder(every=2)]))
    >>> text
    '[["only", {"hook": ["replace-token", {"word": "circle", "with_": "star"}], "steps": [0, 1]}], ["latents", ...]]'
    >>> settings = {"steps": 4, "seed": 0, "progress": False}
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[swap], **settings)
    >>> again = sdprobe.sample(sdprobe.load(), "a red circle", hooks=json.loads(text), **settings)
    >>> bool((run.latents == again.latents).all())
    True

    A class is written by its registered name. Each argument is read from the attribute of the same name; arguments with
    their default value are left out, and a dtype is written by its name. A hook made by a registered function is
    written with the name and configuration that `sdprobe.create` was called with.

    Args:
        hooks: anything that `sdprobe.sample` takes as hooks.

    Returns:
        A list of ``[name, configuration]``. `from_config` creates the hooks from it.

    Raises:
        ValueError: for a hook whose class has no registered name, and for an argument that no file can hold, such as
            a tensor or a function. The message names the hook and the argument.
    """
    written: list[list[Any]] = []
    for given in each(hooks):
        if isinstance(given, Hooks) and (pair := built(given)):
            written.append([pair[0], _plain(given, "hook", pair[1])])
        else:
            written.extend(map(_written, resolve(given)[0]))
    return written


def from_config(config: Iterable[Any]) -> Hooks:
    """Create the hooks that `to_config` wrote.

    >>> import sdprobe
    >>> sdprobe.from_config([["latents", {"every": 2}], ["after", {"k": 5, "hook": ["statistics", {}]}]])
    Hooks(LatentRecorder(every=2), after(5)(Statistics()))

    Args:
        config: pairs of name and configuration. Only registered names are looked up, so a file cannot run code that is
            not installed as a hook.

    Raises:
        ValueError: as `sdprobe.create` does.
    """
    return resolve(config)[0]


@dataclass(frozen=True)
class HookDescription:
    """A hook as a file describes it.

    Args:
        said: its repr.
        kind: its class, as ``"module:name"``.
        name: the name that its class is registered under; None if it has none.
        config: those of its arguments that a file can hold.
        left_out: the others, with the reason.
        pair: what `to_config` writes of it; None if it cannot.
    """

    said: str
    kind: str
    name: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    pair: list[Any] | None = None


def describe(hook: Hook) -> HookDescription:
    """Describe a hook for a file, as far as a file can hold it.

    >>> import sdprobe
    >>> describe(sdprobe.Preview(show=print))
    HookDescription(said='Preview(show=...)', kind='sdprobe.observe.preview:Preview', name='preview', config={},
    left_out={'show': 'the function print'}, pair=None)
    """
    kind, name = f"{type(hook).__module__}:{type(hook).__qualname__}", name_of(type(hook))
    pair, config, left_out = None, dict[str, Any](), dict[str, str]()
    try:
        pair = _written(hook)
    except ValueError as error:
        left_out = {"limits": str(error)}
    if not isinstance(hook, LimitedHook):
        config, left_out = _as_far_as_written(hook)
    return HookDescription(repr(hook), kind, name, config, left_out, pair)


def _as_far_as_written(hook: Hook) -> tuple[dict[str, Any], dict[str, str]]:
    config: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, parameter in inspect.signature(type(hook)).parameters.items():
        if name not in vars(hook):
            left_out[name] = "not kept by the hook"
        elif (value := vars(hook)[name]) is not parameter.default:
            try:
                config[name] = _plain(hook, name, value)
            except ValueError:
                left_out[name] = _what(value)
    return config, left_out


def _written(hook: Hook) -> list[Any]:
    made = built(hook)
    try:
        return _of_limits(hook) if isinstance(hook, LimitedHook) else _of_class(hook)
    except ValueError:
        if made is None:
            raise
        return [made[0], {name: _plain(hook, name, value) for name, value in made[1].items()}]


def _of_limits(hook: LimitedHook) -> list[Any]:
    pair = _written(hook.inner)
    for limit in hook.limits:
        pair = _limited(hook, limit, pair)
    return pair


def _limited(hook: Any, limit: Limit, pair: list[Any]) -> list[Any]:
    steps = limit.steps
    if isinstance(steps, When):
        raise _unwritable(hook, "when", steps.predicate)
    if isinstance(steps, NamedLimit) and limit == Limit(steps):
        return [type(steps).__name__.lower(), {**vars(steps), "hook": pair}]
    if isinstance(steps, NamedLimit):
        raise _unwritable(hook, "steps", steps)
    limits = {"steps": steps, "sites": limit.sites, "rows": limit.rows}
    given = {name: _plain(hook, name, value) for name, value in limits.items() if value is not None}
    return ["only", {"hook": pair, **given}]


def _of_class(hook: Hook) -> list[Any]:
    """Write a hook as its class's name and arguments, after a check that they create the same hook."""
    if isinstance(hook, OfFunction):
        raise _unwritable(hook, "function", hook.function)
    name = name_of(type(hook))
    if name is None:
        raise ValueError(
            f"{hook!r} cannot be written: {type(hook).__name__} has no registered name; give it one with "
            f'@sdprobe.register("..."), or by an entry point of its package'
        )
    config = _arguments(hook)
    again = create(name, **config)
    for setting in SETTINGS:
        value = getattr(hook, setting, None)
        if value != getattr(again, setting, None):
            raise ValueError(f"{hook!r} cannot be written: its {setting} was set to {value!r} outside of its arguments")
    return [name, config]


def _arguments(hook: Hook) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(hook)).parameters.items():
        if name not in vars(hook):
            raise ValueError(
                f"{hook!r} cannot be written: it does not keep its argument {name!r} under that name (self.{name}). "
                f"Made by name, with sdprobe.create, it is written as it was asked for"
            )
        value, default = vars(hook)[name], parameter.default
        if value is default:
            continue
        plain = _plain(hook, name, value)
        try:
            usual = plain == _plain(hook, name, default)
        except ValueError:
            usual = False
        if not usual:
            found[name] = plain
    return found


def _plain(hook: object, name: str, value: Any) -> Any:
    """Return a value as JSON returns it. Raises ValueError with the hook and the argument if JSON cannot hold it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)  # also for numpy floats
    for kind in (str, int):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(hook, f"{name}[{key!r}]", own) for key, own in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, (list, tuple, range)) and len(value) <= LONGEST:
        return [_plain(hook, f"{name}[{i}]", own) for i, own in enumerate(value)]
    raise _unwritable(hook, name, value)


def _unwritable(hook: object, name: str, value: object) -> ValueError:
    return ValueError(f"{hook!r} cannot be written: its argument {name!r} is {_what(value)}; {WRITABLE}")


def _what(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, (float, range, list, tuple)):
        return f"{kind} {value!r}"[:80]
    return f"the function {function_name(value)}" if callable(value) and not isinstance(value, type) else f"a {kind}"
