"""`describe`, `fingerprint`: what an experiment is made of, as plain values, and a hash that tells it from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
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


def describe(value: Any, at: str = "this") -> Any:
    """Return a value as JSON can hold it, the same in every process, so that two values can be told apart.

    A function is its name and its code, so that it is another one once it is edited (`describe_code`); an image, a
    tensor, an array and a file are hashes of their content; a dataclass is its class and fields; a scheduler is its
    class and configuration; hooks are pairs of name and configuration, with the code of those that are not sdprobe's.

    >>> describe({"word": "red", "share": 0.1, "seeds": range(2)})
    {'word': 'red', 'share': 0.1, 'seeds': [0, 1]}

    Args:
        value: the value.
        at: what to call it in an error.

    Raises TypeError for a value of which nothing lasting can be said, such as an object of a class without fields.
    """
    return _Description().of(value, at)


class _Description:
    """One description, in which a function that is met again is only named: functions may call each other."""

    def __init__(self) -> None:
        self.met: list[Any] = []

    def of(self, value: Any, at: str) -> Any:
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return float(value)
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
            return {"size": list(value.size), "mode": value.mode, "sha256": _sha256(value.tobytes())}
        if isinstance(value, np.ndarray):
            said = {"shape": list(value.shape), "dtype": str(value.dtype)}
            if value.dtype.hasobject:  # its bytes are addresses
                return said | {"values": self.of(value.tolist(), at)}
            return said | {"sha256": _sha256(value.tobytes())}
        if isinstance(value, (Observer, Transform, Hooks)):
            return describe_hooks(value)
        if isinstance(value, Enum):
            return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "value": self.of(value.value, at)}
        return self._of_several(value, at)

    def _of_several(self, value: Any, at: str) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            own = {name.name: self.of(getattr(value, name.name), f"{at}.{name.name}") for name in fields(value)}
            return {**self._of_code(type(value), f"the class of {at}"), "fields": own}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: self.of(own, f"{at}[{key!r}]") for key, own in value.items()}
        if isinstance(value, Mapping):
            return {"items": [[self.of(key, at), self.of(own, f"{at}[{key!r}]")] for key, own in value.items()]}
        if isinstance(value, (set, frozenset)):
            return {"set": sorted((self.of(own, at) for own in value), key=_written)}
        if isinstance(value, (list, tuple, range)):
            return [self.of(own, f"{at}[{k}]") for k, own in enumerate(value)]
        if isinstance(value, partial):
            said = {"partial": value.func, "args": value.args, "keywords": value.keywords}
            return {name: self.of(own, at) for name, own in said.items()}
        if hasattr(value, "config") and hasattr(type(value), "from_config"):  # a scheduler
            own = dict(value.config)
            return {**self._of_code(type(value), at), "config": self.of(own, f"the configuration of {at}")}
        if callable(value):
            return self._of_code(value, at)
        raise TypeError(
            f"{at} is {value!r:.80}, a {type(value).__name__}, of which nothing lasting can be said: use plain "
            f"values, functions and frozen dataclasses of them"
        )

    def _of_code(self, value: Any, at: str) -> dict[str, Any]:
        for k, own in enumerate(self.met):
            if own is value:
                return {"again": k}
        self.met.append(value)
        return describe_code(value, at, self.of)


def describe_hooks(hooks: Given) -> Any:
    """Describe hooks as pairs of name and configuration, with the code of those that are not of sdprobe.

    >>> import sdprobe
    >>> describe_hooks([sdprobe.LatentRecorder(every=2)])
    [['latents', {'every': 2}]]

    Raises ValueError for hooks that cannot be written so.
    """
    if isinstance(hooks, Mapping):
        return {name: describe_hooks(own) for name, own in hooks.items()}
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


def _written(description: Any) -> str:
    return json.dumps(description, sort_keys=True, ensure_ascii=False, allow_nan=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
