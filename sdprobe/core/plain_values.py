"""`to_plain` and `from_plain`: Python values as JSON and tensors, and back, with their types."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from sdprobe.core.short_repr import short_repr
from sdprobe.core.torch_names import dtype_of, name_of

Tensors = Mapping[str, Shaped[Tensor, "..."]]
MODES = ("L", "RGB", "RGBA")
DTYPES = tuple({own for own in vars(torch).values() if isinstance(own, torch.dtype)})
WRITABLE = (
    "what can be written are texts, numbers, None, tensors, arrays and images, and lists, tuples, sets and "
    "dictionaries of them"
)


def to_plain(value: Any, tensors: MutableMapping[str, Tensor], at: str) -> Any:
    """Return a value as JSON holds it; tensors, arrays and images in it are put into ``tensors``.

    >>> tensors = {}
    >>> to_plain({"steps": (0, 4), "x": [torch.ones(2)]}, tensors, "kept")
    {'$dict': [['steps', {'$tuple': [0, 4]}], ['x', [{'$tensor': "kept['x'][0]"}]]]}
    >>> from_plain(_, tensors)
    {'steps': (0, 4), 'x': [tensor([1., 1.])]}

    Args:
        value: the value.
        tensors: receives the tensors, by name.
        at: what the value is called; the names of its tensors begin with this.

    Raises TypeError for a value that cannot be written, saying where in the value it is.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, torch.dtype):
        return {"$dtype": name_of(value)}
    if isinstance(value, (Tensor, np.ndarray, np.generic, Image.Image)):
        return _with_tensor(value, tensors, at)
    if type(value) is range:
        return {"$range": [value.start, value.stop, value.step]}
    if isinstance(value, Mapping):
        pairs = [[to_plain(key, tensors, at), to_plain(own, tensors, f"{at}[{key!r}]")] for key, own in value.items()]
        return {"$dict": pairs}
    if type(value) in (list, tuple, set, frozenset):
        found = [to_plain(own, tensors, f"{at}[{i}]") for i, own in enumerate(value)]
        return found if type(value) is list else {f"${type(value).__name__}": found}
    raise TypeError(f"{at} is {short_repr(value)}, a {type(value).__name__}; {WRITABLE}")


def from_plain(plain: Any, tensors: Tensors) -> Any:
    """Return the value that `to_plain` wrote. Raises ValueError for anything else."""
    if isinstance(plain, list):
        return [from_plain(own, tensors) for own in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) != 1:
        raise ValueError(f"{short_repr(plain)} is no value that was written")
    kind, own = next(iter(plain.items()))
    try:
        return _READERS[kind](own, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{short_repr(plain)} is no value that was written: {error}") from error


def _with_tensor(value: Any, tensors: MutableMapping[str, Tensor], at: str) -> dict[str, Any]:
    while at in tensors:  # two keys that print alike, such as NaN
        at += "'"
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(f"{at} is a tensor without plain numbers in memory ({value.layout}); {WRITABLE}")
        tensors[at] = value
        return {"$tensor": at}
    array = np.asarray(value)
    if isinstance(value, np.ma.MaskedArray) or array.dtype.hasobject or array.dtype.kind not in "biufc":
        raise TypeError(
            f"{at} is {'a masked' if isinstance(value, np.ma.MaskedArray) else 'an'} array of {array.dtype}; {WRITABLE}"
        )
    if isinstance(value, Image.Image) and value.mode not in MODES:
        raise TypeError(f"{at} is an image of mode {value.mode!r}; those that can be written: {', '.join(MODES)}")
    tensors[at] = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))  # a copy
    kind = "$image" if isinstance(value, Image.Image) else "$number" if isinstance(value, np.generic) else "$array"
    return {kind: at}


_READERS: dict[str, Any] = {
    "$float": lambda own, tensors: float(own),
    "$dtype": lambda own, tensors: dtype_of(own, DTYPES),
    "$range": lambda own, tensors: range(*own),
    "$dict": lambda own, tensors: {from_plain(key, tensors): from_plain(value, tensors) for key, value in own},
    "$tuple": lambda own, tensors: tuple(from_plain(each, tensors) for each in own),
    "$set": lambda own, tensors: {from_plain(each, tensors) for each in own},
    "$frozenset": lambda own, tensors: frozenset(from_plain(each, tensors) for each in own),
    "$tensor": lambda own, tensors: tensors[own],
    "$array": lambda own, tensors: tensors[own].numpy(),
    "$number": lambda own, tensors: tensors[own].numpy()[()],
    "$image": lambda own, tensors: Image.fromarray(tensors[own].numpy()),
}
