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
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models import attention_dispatch
from torch import Tensor

Receive = Callable[..., Tensor]
"""What gets a call: ``receive(stock, query, key, value, ...)``, with ``[rows, heads, positions, width]``."""

_backends = attention_dispatch._AttentionBackendRegistry


class _Thread(threading.local):
    receive: Receive | None = None


_thread, _lock = _Thread(), threading.Lock()
_open = 0  # modules in which some thread listens now
_sdpa = F.scaled_dot_product_attention
_stock_backends: dict[Any, Callable[..., Any]] = {}


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
        if F.scaled_dot_product_attention is not _call_or_receive:
            _sdpa = F.scaled_dot_product_attention
            F.scaled_dot_product_attention = _call_or_receive
        if backend is not None and backend not in _stock_backends:
            _stock_backends[backend] = _backends._backends[backend]
            _backends._backends[backend] = _received_backend(_stock_backends[backend])
    return before


def restore(before: Receive | None) -> None:
    """Undo a call of `divert`, which returned ``before``."""
    global _open
    _thread.receive = before
    with _lock:
        _open -= 1
        if not _open:
            if F.scaled_dot_product_attention is _call_or_receive:  # else somebody has replaced it meanwhile
                F.scaled_dot_product_attention = _sdpa
            _backends._backends.update(_stock_backends)
            _stock_backends.clear()


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


@wraps(_sdpa)
def _call_or_receive(*args: Any, **kwargs: Any) -> Tensor:
    if torch.compiler.is_compiling() or (receive := _thread.receive) is None:
        return _sdpa(*args, **kwargs)
    _thread.receive = None  # what a hook computes by itself is no call of the module
    try:
        return receive(_sdpa, *args, **kwargs)
    finally:
        _thread.receive = receive


def _received_backend(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return a backend's function that looks who listens; backends get ``[rows, positions, heads, width]``."""

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
        _thread.receive = None
        try:
            turned = (x.transpose(1, 2) for x in (query, key, value))
            return receive(own, *turned, attn_mask=attn_mask, **asked).transpose(1, 2)
        finally:
            _thread.receive = receive

    return call
