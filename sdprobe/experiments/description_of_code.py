"""`describe_code`: a function or a class as plain values, another one once what it does is edited."""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Describe(Protocol):
    """Describes a value; with ``whole=False`` by its class where nothing lasting can be said of it."""

    def __call__(self, value: Any, at: str, *, whole: bool | None = None) -> Any: ...


def describe_code(value: Any, at: str, describe: Describe) -> dict[str, Any]:
    """Describe a function, a method or a class by its name and by what it does.

    What it does is its compiled code, which no comment changes; its defaults; what it takes from around it; and of its
    module's names, and of other modules of one's own, the functions, classes and values that it uses. A module of one's
    own that it imports when it is called is read from its file, with those that this one imports: it may not be loaded
    yet. What it uses of installed packages is not followed, nor is sdprobe: a `Job` has the version of that.

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
    return file is not None and _is_own_file(file)


def _is_own_file(file: str) -> bool:
    return not {"site-packages", "dist-packages"} & set(Path(file).parts)


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
        if used := dict(sorted(_reached(names, function.__globals__).items())):
            found["uses"] = {name: describe(own, name, whole=False) for name, own in used.items()}
        around = function.__globals__
        package = around.get("__package__") or str(around.get("__name__")).rpartition(".")[0]
        if imported := _imported(function.__code__, package):
            found["imports"] = imported
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
            own[name] = [describe(part, at) for part in parts] if parts else describe(value, at, whole=False)
        found[_name(base)] = own
    return found


def _functions(value: Any) -> list[FunctionType]:
    if isinstance(value, cached_property):
        return _functions(value.func)
    parts = (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
    return [part for part in parts if isinstance(part, FunctionType)]


def _reached(names: set[str], around: Mapping[str, Any]) -> dict[str, Any]:
    """What code uses by name: values, and functions and classes of one's own, also those of one's own modules."""
    found: dict[str, Any] = {}
    seen: set[str] = set()  # a package names its modules, and these the package
    left: list[tuple[str, Mapping[str, Any]]] = [("", around)]
    while left:
        at, held = left.pop(0)
        for name in sorted(names & set(held)):
            value = held[name]
            if name.startswith("__"):
                continue
            if isinstance(value, ModuleType):
                if is_own(value.__name__) and value.__name__ not in seen:
                    seen.add(value.__name__)
                    left.append((f"{at}{name}.", vars(value)))
            elif not (callable(value) and hasattr(value, "__qualname__")) or is_own(value.__module__):
                found[f"{at}{name}"] = value
    return found


def _imported(code: CodeType, package: str) -> dict[str, str]:
    """Hash the modules of one's own that code imports, and those that these import, of their files.

    Nothing is imported for it, and what is loaded is not looked at: a description would be another one afterwards.
    """
    found: dict[str, str] = {}
    left = [(code, package)]
    while left:
        for name in _imports(*left.pop()):
            if name in found or name.partition(".")[0] in ("sdprobe", *sys.stdlib_module_names):
                continue
            spec = _spec(name)
            if spec is None or not str(spec.origin).endswith(".py") or not _is_own_file(str(spec.origin)):
                continue
            source = Path(str(spec.origin)).read_bytes()
            try:
                made = compile(source, name, "exec", dont_inherit=True)
            except (SyntaxError, ValueError):  # the import will fail, and say why
                found[name] = hashlib.sha256(source).hexdigest()[:32]
                continue
            found[name] = _hash(made)
            left.append((made, name if spec.submodule_search_locations is not None else name.rpartition(".")[0]))
    return dict(sorted(found.items()))


def _imports(code: CodeType, package: str) -> Iterator[str]:
    """The full names of what code imports: modules, and what it takes from them, which may be modules too."""
    before: list[Any] = [0, ()]
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            level, taken = before[-2:]
            parts = package.split(".")
            base = parts[: len(parts) - level + 1] if level else []
            name = ".".join([*base, *filter(None, [step.argval])])
            if not level or (package and base):
                yield name
                yield from (f"{name}.{own}" for own in taken or () if own != "*")
        if step.opname != "EXTENDED_ARG":
            before.append(step.argval)
    for own in code.co_consts:
        if isinstance(own, CodeType):
            yield from _imports(own, package)


def _spec(name: str) -> ModuleSpec | None:
    """Find a module as an import does, but without an import of the packages that it is in."""
    found, where, at = None, None, ""
    for part in name.split("."):
        if at and where is None:  # a module, in which there are no modules
            return None
        at = f"{at}.{part}" if at else part
        finders = (finder.find_spec(at, where) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        if (found := next((own for own in finders if own is not None), None)) is None:
            return None
        where = found.submodule_search_locations
        where = None if where is None else list(where)
    return found


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
