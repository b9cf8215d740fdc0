"""`describe`, `fingerprint`: what an experiment is made of, as plain values, and a hash that tells it from another."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdprobe.core.compose import Hooks
from sdprobe.core.function_hooks import OfFunction
from sdprobe.core.given_hooks import Given
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.hook_configuration import to_config
from sdprobe.core.registry import resolve
from sdprobe.experiments.description_of_code import describe_code, is_own

HOOKS = (Observer, Transform, Hooks)


def describe(value: Any, at: str = "this") -> Any:
    """Return a value as JSON can hold it, the same in every process, so that two values can be told apart.

    A function is its name and its code, so that it is another one once it is edited (`describe_code`); an image, a
    tensor, an array and a file are hashes of their content; a dataclass is its class and fields; a scheduler is its
    class and configuration; hooks are pairs of name and configuration, with the code of those that are not sdprobe's;
    an object of a class of one's own is its class and attributes; a network is also its weights. Equal numbers are
    equal, 5 and 5.0, but not within a function, where they may be of another type for a reason.

    >>> describe({"word": "red", "share": 0.1, "seeds": range(2)})
    {'word': 'red', 'share': 0.1, 'seeds': [0, 1]}

    Args:
        value: the value.
        at: what to call it in an error.

    Raises TypeError for a value of which nothing lasting can be said, such as an open file.
    """
    return _Description().of(value, at)


class _Description:
    """One description, in which a function that is met again is only named: functions may call each other."""

    def __init__(self) -> None:
        self.met: list[Any] = []
        self.inside: list[Any] = []  # which containers the value is in
        self.whole = True
        self.in_code = False

    def of(self, value: Any, at: str, *, whole: bool | None = None) -> Any:
        """Describe a value; unless ``whole``, by its class where nothing lasting can be said of it.

        What is within a value is described as it is, so that one such object hides nothing of what is beside it.
        """
        before = self.whole, len(self.inside)
        self.whole = self.whole if whole is None else whole and self.whole
        try:
            return self._of(value, at)
        except RecursionError:
            raise
        except (TypeError, ValueError, RuntimeError):
            if self.whole:
                raise
            return {"kind": f"{type(value).__module__}:{type(value).__qualname__}"}
        finally:
            self.whole = before[0]
            del self.inside[before[1] :]

    def _of(self, value: Any, at: str) -> Any:
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return int(value) if value.is_integer() and not self.in_code else float(value)
        if isinstance(value, np.generic):
            return self.of(value.item(), at)
        if isinstance(value, Path):
            return describe_file(value)
        if isinstance(value, torch.dtype | torch.device):
            return str(value)
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": _sha256(plain.tobytes())}
        if isinstance(value, Image.Image):
            return {"size": list(value.size), "mode": value.mode, "sha256": _sha256(_pixels(value))}
        if isinstance(value, np.ndarray):
            said = {"shape": list(value.shape), "dtype": str(value.dtype)}
            if value.dtype.hasobject:  # its bytes are addresses
                return said | {"values": self.of(value.tolist(), at)}
            return said | {"sha256": _sha256(value.tobytes())}
        if isinstance(value, HOOKS):
            return describe_hooks(value)
        if isinstance(value, Enum):
            return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "value": self.of(value.value, at)}
        return self._of_several(value, at)

    def _of_several(self, value: Any, at: str) -> Any:
        for k, own in enumerate(self.inside):
            if own is value:  # it is in itself
                return {"around": k}
        self.inside.append(value)
        if is_dataclass(value) and not isinstance(value, type):
            own = {name.name: self.of(getattr(value, name.name), f"{at}.{name.name}") for name in fields(value)}
            return {**self._of_code(type(value), f"the class of {at}"), "fields": own}
        if isinstance(value, Mapping) and value and all(isinstance(own, HOOKS) for own in value.values()):
            return describe_hooks(value)
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            said = {key: self.of(value[key], f"{at}[{key!r}]") for key in sorted(value)}  # what is met first is told
            return {key: said[key] for key in value}
        if isinstance(value, Mapping):
            return {"items": [[self.of(key, at), self.of(own, f"{at}[{key!r}]")] for key, own in value.items()]}
        if isinstance(value, (set, frozenset)):
            return self._of_set(value, at)
        if isinstance(value, (list, tuple, range)):
            return [self.of(own, f"{at}[{k}]") for k, own in enumerate(value)]
        if isinstance(value, partial):
            said = {"partial": value.func, "args": value.args, "keywords": value.keywords}
            return {name: self.of(own, at) for name, own in said.items()}
        if isinstance(value, torch.nn.Module):
            return self._of_network(value, at)
        if hasattr(value, "config") and hasattr(type(value), "from_config"):  # a scheduler
            # What begins with _ is where it was loaded from, and in an order that each process has of its own.
            own = {name: said for name, said in dict(value.config).items() if name[0] != "_"}
            return {**self._of_code(type(value), at), "config": self.of(own, f"the configuration of {at}")}
        if isinstance(value, (SimpleNamespace, Namespace)) or (
            is_own(type(value).__module__) and not isinstance(value, type)
        ):
            return self._of_object(value, at)
        if callable(value):
            return self._of_code(value, at)
        raise TypeError(
            f"{at} is {value!r:.80}, a {type(value).__name__}, of which nothing lasting can be said: use plain "
            f"values, functions and frozen dataclasses of them"
        )

    def _of_set(self, value: Any, at: str) -> dict[str, Any]:
        found, met = [], list(self.met)
        for own in value:
            self.met = list(met)  # else what was met would depend on the order, which each process has of its own
            found.append(self.of(own, at))
        self.met = met
        return {"set": sorted(found, key=_written)}

    def _of_object(self, value: Any, at: str) -> dict[str, Any]:
        if (again := self._again(value)) is not None:
            return again
        kind = type(value)
        slots = [name for own in kind.__mro__ for name in _slots(own) if hasattr(value, name)]
        held = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
        # What is computed when it is first asked for says nothing new.
        own = {name: x for name, x in held.items() if not isinstance(getattr(kind, name, None), cached_property)}
        said = {name: self.of(own[name], f"{at}.{name}") for name in sorted(own)}
        return {**self._of_code(kind, f"the class of {at}"), "fields": said}

    def _of_network(self, value: torch.nn.Module, at: str) -> dict[str, Any]:
        if (again := self._again(value)) is not None:
            return again
        held = {name: own for name, own in vars(value).items() if name[0] != "_"}
        said = {
            "tensors": self.of(value._parameters | value._buffers, at),
            "parts": self.of(dict(value._modules), at),
            "fields": self.of(held, at, whole=False),
        }
        return {**self._of_code(type(value), f"the class of {at}"), **said}

    def _again(self, value: Any) -> dict[str, Any] | None:
        for k, own in enumerate(self.met):
            if own is value:
                return {"again": k}
        self.met.append(value)
        return None

    def _of_code(self, value: Any, at: str) -> dict[str, Any]:
        if (again := self._again(value)) is not None:
            return again
        before, self.in_code = self.in_code, True
        try:
            return describe_code(value, at, self.of)
        finally:
            self.in_code = before


def describe_hooks(hooks: Given) -> Any:
    """Describe hooks as pairs of name and configuration, with the code of those that are not of sdprobe.

    Those with names of one's own are pairs of this name and the hooks, in their order, in which they act.

    >>> import sdprobe
    >>> describe_hooks([sdprobe.LatentRecorder(every=2)])
    [['latents', {'every': 2}]]

    Raises ValueError for hooks that cannot be written so.
    """
    if isinstance(hooks, Mapping):
        return [[name, describe_hooks(own)] for name, own in hooks.items()]
    written, code = to_config(hooks), {}
    for leaf in resolve(hooks)[0].leaves:
        own: Any = leaf
        while isinstance(inner := vars(own).get("inner"), (Observer, Transform)):
            own = inner
        made = own.function if isinstance(own, OfFunction) else type(own)
        if is_own(made.__module__):
            code[f"{made.__module__}:{made.__qualname__}"] = describe(made, f"the hook {made.__qualname__}")
    return {"hooks": written, "code": code} if code else written


def describe_file(path: Path) -> dict[str, str]:
    """Describe a file by its content, or by its name where it is not here."""
    return {"file": _sha256(path.read_bytes())} if path.is_file() else {"path": str(path)}


def fingerprint(description: Any) -> str:
    """Return a hash of a description.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return _sha256(_written(description).encode())[:32]


def _pixels(image: Image.Image) -> bytes:
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).tobytes()  # else without their colours


def _slots(kind: type) -> list[str]:
    own = vars(kind).get("__slots__", ())
    names = [own] if isinstance(own, str) else list(own)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _written(description: Any) -> str:
    return json.dumps(description, sort_keys=True, ensure_ascii=False, allow_nan=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
