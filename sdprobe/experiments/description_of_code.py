"""`describe_code`: a function or a class as plain values, another one once what it does is edited."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

Describe = Callable[[Any, str], Any]


def describe_code(value: Any, at: str, describe: Describe) -> dict[str, Any]:
    """Describe a function, a method or a class by its name and by what it does.

    What it does is its compiled code, which no comment changes; its defaults; what it takes from around it; and of its
    module's names, and of other modules of one's own, the functions, classes and values that it uses. What it uses of
    installed packages is not followed, nor is sdprobe: a `Job` has the version of that.

    >>> from sdprobe.experiments.description import describe
    >>> shares = [describe(lambda run, share=share: run.latents.mean() * share) for share in (0.1, 0.1, 0.2)]
    >>> shares[0] == shares[1], shares[0] == shares[2]
    (True, False)

    Args:
        value: the function or class.
        at: what to call it in an error.
        describe: describes another value that belongs to it.

    Raises TypeError for a callable object that is none of these, and for something that a function takes from around
    it of which nothing lasting can be said.
    """
    if isinstance(value, MethodType):
        return {"method": describe(value.__func__, at), "of": describe(value.__self__, f"the object of {at}")}
    if isinstance(value, type):
        return _of_class(value, at, describe)
    if isinstance(value, FunctionType):
        return _of_function(value, at, describe)
    if callable(inner := getattr(value, "__wrapped__", None)):  # that of functools.lru_cache
        return {"name": _name(value), "wraps": describe(inner, at)}
    if not hasattr(value, "__qualname__"):
        raise TypeError(
            f"{at} is {value!r:.80}, an object whose class is no dataclass: make it a frozen dataclass, "
            f"so that it can be told from another"
        )
    owner = getattr(value, "__self__", None)  # of a method that is written in C
    bound = {} if owner is None or isinstance(owner, (ModuleType, type)) else {"of": describe(owner, at)}
    return {"name": _name(value), **bound}


def is_own(module: str | None) -> bool:
    """Whether a module is neither of Python, nor an installed package, nor sdprobe: the code of whoever asks.

    >>> is_own("numpy"), is_own("json"), is_own("sdprobe.core.run"), is_own("__main__")
    (False, False, False, True)
    """
    top = str(module).partition(".")[0]
    if top in ("__main__", "__mp_main__"):
        return True
    if top == "sdprobe" or top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _of_function(function: FunctionType, at: str, describe: Describe) -> dict[str, Any]:
    found: dict[str, Any] = {"function": _name(function), "code": _hash(function.__code__)}
    if function.__defaults__ or function.__kwdefaults__:
        given = [list(function.__defaults__ or ()), function.__kwdefaults__ or {}]
        found["defaults"] = describe(given, f"the defaults of {at}")
    if function.__closure__:
        held = dict(zip(function.__code__.co_freevars, map(_content, function.__closure__), strict=True))
        held.pop("__class__", None)  # what super() needs: the class that the method is of
        found["closure"] = describe(held, f"what {at} takes from around it")
    if is_own(function.__module__):
        names = set(_names(function.__code__))
        if used := dict(sorted(_used(names, function.__globals__, describe))):
            found["uses"] = used
    return found


def _of_class(kind: type, at: str, describe: Describe) -> dict[str, Any]:
    found: dict[str, Any] = {"class": _name(kind)}
    for base in kind.__mro__:
        if not is_own(base.__module__):
            continue
        own = {}
        for name, value in sorted(vars(base).items()):
            parts = _functions(value)
            by_python = all(part.__code__.co_filename == "<string>" for part in parts)  # or by dataclass
            if name.startswith("_abc_") or (name.startswith("__") and by_python and not (parts and name == "__call__")):
                continue
            own[name] = [describe(part, at) for part in parts] if parts else _or_kind(value, at, describe)
        found[_name(base)] = own
    return found


def _functions(value: Any) -> list[FunctionType]:
    parts = (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
    return [part for part in parts if isinstance(part, FunctionType)]


def _used(names: set[str], around: Mapping[str, Any], describe: Describe) -> Iterator[tuple[str, Any]]:
    """What code uses by name: values, and functions and classes of one's own, also those of one's own modules."""
    for name in names & set(around):
        value = around[name]
        if name.startswith("__"):
            continue
        if isinstance(value, ModuleType):
            if is_own(value.__name__):
                inside = {key: own for key, own in vars(value).items() if own is not value}
                # A module in a module is not followed further: a package names its modules, and these the package.
                flat = {key: own for key, own in inside.items() if not isinstance(own, ModuleType)}
                yield from ((f"{name}.{key}", own) for key, own in _used(names, flat, describe))
        elif not (callable(value) and hasattr(value, "__qualname__")) or is_own(value.__module__):
            yield name, _or_kind(value, name, describe)


def _or_kind(value: Any, at: str, describe: Describe) -> Any:
    """Describe a value, or only its class where nothing lasting can be said of it, such as of a network."""
    try:
        return describe(value, at)
    except (TypeError, ValueError):
        return {"kind": _name(type(value))}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for own in code.co_consts:
        if isinstance(own, CodeType):
            yield from _names(own)


def _hash(code: CodeType) -> str:
    made = hashlib.sha256()
    for part in _parts(code):
        made.update(f"{part}\n".encode())
    return made.hexdigest()[:32]


def _parts(code: CodeType) -> Iterator[str]:
    arguments = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars} {arguments}"
    for own in code.co_consts:
        if isinstance(own, CodeType):
            yield from _parts(own)
        else:  # the order of a set is another one in each process
            yield f"frozenset {sorted(map(repr, own))}" if isinstance(own, frozenset) else repr(own)


def _name(value: Any) -> str:
    # A worker that was started anew calls the main module otherwise.
    module = "__main__" if value.__module__ == "__mp_main__" else value.__module__
    return f"{module}:{value.__qualname__}"
