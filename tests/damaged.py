"""JSON and tensors with something else in one place, as a file of somebody else may hold them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

ALLOWED = (ValueError, KeyError, FileNotFoundError)
"""The errors that somebody may get who asks a run in a damaged folder."""

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
NASTY = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 1, 7, 2**63, 10**400, 1e308, float("nan"), float("inf"), 0.5]),
    st.sampled_from(["", "text", "\x1b[2Jgone", "../../etc/passwd", "os:system", "tensors-0000.safetensors", "\ud800"]),
    st.sampled_from([[], {}, [None], {"": None}, [[[]]], DEEP, {"$tensor": "0"}, {"$run": None}]),
    st.sampled_from([[0] * 20_000, "x" * 100_000, {str(i): i for i in range(20_000)}, ["\x1b[31m" * 200] * 50]),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, own in inner for place in places(own, (*path, key)))]


def damaged(content: Any, path: tuple[Any, ...], way: str, value: Any) -> Any:
    """The content with something else in one place."""
    content = copy.deepcopy(content)
    if not path:
        return value
    own = content
    for key in path[:-1]:
        own = own[key]
    if way == "replace":
        own[path[-1]] = value
    elif way == "remove":
        del own[path[-1]]
    elif isinstance(own, list):
        own.append(value)
    else:
        own[value if isinstance(value, str) else repr(value)[:50]] = own.pop(path[-1])
    return content


WRONG: Mapping[str, Callable[[Tensor], Tensor]] = {
    "int8": lambda x: x.to(torch.int8),
    "booleans": lambda x: x > 0,
    "complex": lambda x: x.to(torch.complex64),
    "of 8 bits": lambda x: x.to(torch.float8_e4m3fn),
    "half precision": lambda x: x.bfloat16(),
    "flat": lambda x: x.flatten(),
    "half": lambda x: x[: len(x) // 2] if x.ndim else x,
    "a number": lambda x: x.flatten()[0] if x.numel() else x,
    "empty": lambda x: x.flatten()[:0],
    "turned": lambda x: x.movedim(0, -1) if x.ndim else x,
    "of more axes": lambda x: x[None],
    "no numbers": lambda x: x * float("nan"),
    "narrow": lambda x: x[..., :-1] if x.ndim else x,
    "wide": lambda x: torch.cat([x, x], -1) if x.ndim else x,
    "twice": lambda x: torch.cat([x, x]) if x.ndim else x,
}
"""Ways in which a tensor is another than the one that was written."""
