"""`divert` and `restore`: attention calls of this thread go to a function while one attention module runs.

Every attention module of diffusers ends in `torch.nn.functional.scaled_dot_product_attention`, or in a function that
diffusers keeps for another backend (FlexAttention, FlashAttention, SageAttention, xFormers). While a module that hooks
ask for runs, these functions are replaced by ones that look who listens in the calling thread: nobody, and they are
what they were. They are put back when the last such module has ended, in any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models import attention_dispatch
from torch import Tensor

Receive = Callable[..., Tensor]
"""What gets a call: ``receive(stock, query, key, value, ...)``, with ``[rows, heads, positions, width]``."""

_backends = attention_dispatch._AttentionBackendRegistry


class _Thread(threading.local):
    receive: Receive | None = None
    receiving = False


class _Installed(NamedTuple):
    """A function that looks who listens, and the one whose place it has."""

    function: Callable[..., Any]
    stock: Callable[..., Any]


_thread, _lock = _Thread(), threading.Lock()
_open = 0  # modules in which some thread listens now
_sdpa: _Installed | None = None
_of_backends: dict[Any, _Installed] = {}


def is_receiving() -> bool:
    """Whether this thread is at a call that is being received: what it calls now is no call of the denoiser's own."""
    return _thread.receiving


def divert(receive: Receive | None, backend: Any = None) -> Receive | None:
    """Send this thread's attention calls to a function, and return the one that they went to before.

    Args:
        receive: gets each call; None for no one.
        backend: the name of the backend of diffusers that makes the calls; None for torch's own function.
    """
    global _open, _sdpa
    before, _thread.receive = _thread.receive, receive
    with _lock:
        _open += 1
        if _sdpa is None or F.scaled_dot_product_attention is not _sdpa.function:
            stock = F.scaled_dot_product_attention
            _sdpa = _Installed(_received(stock), stock)
            F.scaled_dot_product_attention = _sdpa.function
        if backend is not None and backend not in _of_backends:
            stock = _backends._backends[backend]
            _of_backends[backend] = _Installed(_received_backend(stock), stock)
            _backends._backends[backend] = _of_backends[backend].function
    return before


def restore(before: Receive | None) -> None:
    """Undo a call of `divert`, which returned ``before``. What somebody else has replaced meanwhile is left alone."""
    global _open, _sdpa
    _thread.receive = before
    with _lock:
        _open -= 1
        if _open or _sdpa is None:
            return
        if F.scaled_dot_product_attention is _sdpa.function:
            F.scaled_dot_product_attention = _sdpa.stock
        for name, own in _of_backends.items():
            if _backends._backends[name] is own.function:
                _backends._backends[name] = own.stock
        _sdpa = None
        _of_backends.clear()


def backend_of(module: Any) -> Any:
    """Return the name of the backend that a module's attention uses, None if that is torch's own function."""
    processor: Any = getattr(module, "processor", None)
    if not hasattr(processor, "_attention_backend"):
        return None
    chosen = processor._attention_backend
    if isinstance(chosen, str):
        with suppress(ValueError):
            chosen = attention_dispatch.AttentionBackendName(chosen)
    name = _backends._active_backend if chosen is None else chosen
    own = str(getattr(name, "value", name)).lstrip("_")
    return None if own.startswith("native") or name not in _backends._backends else name


def _received(stock: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return torch's function, or what somebody has put in its place, as one that looks who listens."""

    @wraps(stock)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        if torch.compiler.is_compiling() or (receive := _thread.receive) is None:
            return stock(*args, **kwargs)
        return _give(receive, stock, *args, **kwargs)

    return call


def _received_backend(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return a backend's function as one that looks who listens; backends get ``[rows, positions, heads, width]``."""

    @wraps(stock)
    def call(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or (receive := _thread.receive) is None or kwargs.get("return_lse"):
            return stock(query=query, key=key, value=value, attn_mask=attn_mask, **kwargs)

        def own(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **_: Any) -> Tensor:
            given = {} if attn_mask is None else {"attn_mask": attn_mask}
            turned = {"query": query.transpose(1, 2), "key": key.transpose(1, 2), "value": value.transpose(1, 2)}
            made: Tensor = stock(**turned, **given, **kwargs).transpose(1, 2)
            return made

        names = ("dropout_p", "is_causal", "scale", "enable_gqa")
        asked = {name: kwargs[name] for name in names if name in kwargs}
        turned = (x.transpose(1, 2) for x in (query, key, value))
        return _give(receive, own, *turned, attn_mask=attn_mask, **asked).transpose(1, 2)

    return call


def _give(receive: Receive, stock: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Give a call to the one who listens; what a hook computes meanwhile is no call of the module."""
    _thread.receive, _thread.receiving = None, True
    try:
        return receive(stock, *args, **kwargs)
    finally:
        _thread.receive, _thread.receiving = receive, False
