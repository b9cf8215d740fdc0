"""`describe`, `fingerprint`: what an experiment is made of, as plain values, and a hash that tells it from another."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdprobe.core.compose import Hooks
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.hook_configuration import to_config


def describe(value: Any, at: str = "this") -> Any:
    """Return a value as JSON can hold it, the same in every process, so that two values can be told apart.

    A function is its name and its source, so that it is another one once it is edited; an image, a tensor and an array
    are hashes of their content; a dataclass is its class and fields; hooks are pairs of name and configuration.

    >>> describe({"word": "red", "share": 0.1, "seeds": range(2)})
    {'word': 'red', 'share': 0.1, 'seeds': [0, 1]}

    Args:
        value: the value.
        at: what to call it in an error.

    Raises TypeError for a value of which nothing lasting can be said, such as an object of a class without fields.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, np.generic):
        return describe(value.item(), at)
    if isinstance(value, Path):
        return {"file": str(value)}
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, torch.Tensor):
        return describe(value.detach().cpu().float().numpy(), at) | {"dtype": str(value.dtype)}
    if isinstance(value, Image.Image):
        return describe(np.asarray(value), at) | {"mode": value.mode}
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "sha256": hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}
    if isinstance(value, (Observer, Transform, Hooks)):
        return to_config(value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {name.name: describe(getattr(value, name.name), f"{at}.{name.name}") for name in fields(value)}
        return {"class": _name(type(value)), **own}
    if isinstance(value, Mapping):
        return {str(key): describe(own, f"{at}[{key!r}]") for key, own in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, (list, tuple, range)):
        return [describe(own, f"{at}[{k}]") for k, own in enumerate(value)]
    if isinstance(value, partial):
        return {"partial": describe(value.func, at), "args": describe(value.args, at), **describe(value.keywords, at)}
    if isinstance(value, type) or callable(value):
        return _of_function(value, at)
    raise TypeError(
        f"{at} is {value!r:.80}, a {type(value).__name__}, of which nothing lasting can be said: use plain "
        f"values, functions and frozen dataclasses of them"
    )


def fingerprint(description: Any) -> str:
    """Return a hash of a description.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    written = json.dumps(description, sort_keys=True, ensure_ascii=False, allow_nan=True)
    return hashlib.sha256(written.encode()).hexdigest()[:32]


def _of_function(value: Any, at: str) -> dict[str, Any]:
    if isinstance(value, type) or not isinstance(value, FunctionType):
        if not hasattr(value, "__qualname__"):
            raise TypeError(
                f"{at} is {value!r:.80}, an object whose class is no dataclass: make it a frozen dataclass, "
                f"so that it can be told from another"
            )
        return {"name": _name(value)}
    found: dict[str, Any] = {"function": _name(value), "source": _source(value)}
    if value.__defaults__:
        found["defaults"] = describe(value.__defaults__, f"the defaults of {at}")
    if value.__closure__:
        names = value.__code__.co_freevars
        held = {name: cell.cell_contents for name, cell in zip(names, value.__closure__, strict=True)}
        found["closure"] = describe(held, f"what {at} takes from around it")
    return found


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed into an interpreter
        code = function.__code__
        return hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()


def _name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"
