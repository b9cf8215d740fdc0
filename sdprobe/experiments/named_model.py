"""`NamedModel`, `sampler_in_worker`: how a worker gets the model of an experiment, once for each process."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from sdprobe.core.torch_names import dtype_of
from sdprobe.core.torch_names import name_of as dtype_name
from sdprobe.experiments.case_runner import Sampler
from sdprobe.experiments.run_job import said
from sdprobe.experiments.sampler import AttachedPipeline, OwnLoop, attached, sampler_of
from sdprobe.model.loading import load
from sdprobe.model.weights_hash import source_of


class ModelRefused(Exception):
    """A worker cannot get the model that was asked for, so that none of its pictures would be right."""


@dataclass(frozen=True)
class NamedModel:
    """A model by what `sdprobe.load` takes, to be loaded in another process.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> named = name_model(sampler_of(model))
    >>> named.source, named.dtype, named.device
    ('shapes', None, None)
    >>> named.load().identity == sampler_of(model).identity
    True

    Args:
        source: a name, a hub id or a path.
        dtype: of the denoiser; None for float32.
        device: None for the CPU.
        scheduler: the class and the configuration of the pipeline's scheduler.
        arguments: those of an `attached` pipeline; None for sdprobe's own loop.
    """

    source: str
    dtype: str | None
    device: str | None
    scheduler: tuple[type, Mapping[str, Any]]
    arguments: Mapping[str, Any] | None = None

    def load(self, dtype: str | None = None) -> Sampler:
        """Load it, with a dtype, or as it is saved."""
        model = load(self.source, dtype=None if dtype is None else dtype_of(dtype), device=self.device)
        kind, configuration = self.scheduler
        model.pipe.scheduler = kind.from_config(configuration)  # type: ignore[attr-defined]
        return OwnLoop(model) if self.arguments is None else attached(model.pipe, **self.arguments)


Making = NamedModel | Callable[[], Any]
_live: dict[str, tuple[int, Sampler]] = {}
_loaded: dict[str, Sampler] = {}
_loading = Lock()


def name_model(sampler: Sampler) -> NamedModel | None:
    """Return a model by name; None if it was made in memory, and for a sampler of one's own.

    None too for an attached pipeline for more than a text, which `sdprobe.load` does not make.
    """
    if not isinstance(sampler, (OwnLoop, AttachedPipeline)) or getattr(sampler, "alone", False):
        return None
    model = sampler.model
    if (source := source_of(model.pipe)) is None:
        return None
    path = Path(source).expanduser()
    source = str(path.resolve()) if path.exists() else source  # a worker may be in another folder
    device = None if model.device.type == "cpu" else str(model.device)
    scheduler = type(model.pipe.scheduler), dict(model.pipe.scheduler.config)
    arguments = sampler.arguments if isinstance(sampler, AttachedPipeline) else None
    dtype = None if model.denoiser.dtype == torch.float32 else dtype_name(model.denoiser.dtype)
    return NamedModel(source, dtype, device, scheduler, arguments)


def refuse_unreachable(executor: Executor, how: Making | None, sampler: Sampler) -> None:
    """Raise ValueError where no worker of an executor can get the model, before anything is submitted."""
    if isinstance(executor, ThreadPoolExecutor):
        return
    if isinstance(executor, ProcessPoolExecutor) and _will_fork(executor):
        if _device(sampler) == "cpu":
            return
        raise ValueError(
            "the pool forks this process, and a GPU that is in use cannot be used by a fork: start its processes anew, "
            "with ProcessPoolExecutor(..., mp_context=multiprocessing.get_context('spawn'))"
        )
    if how is None:
        raise ValueError(
            "the model was made in memory, or is a pipeline for more than a text, so that a worker cannot load it by "
            "name: give a function without arguments that makes it, as in experiment(make_model, ...), or, of one "
            "for texts, save it (pipe.save_pretrained) and load that folder"
        )


@contextmanager
def live_here(sampler: Sampler) -> Iterator[str]:
    """While this is open, workers that are threads or forks of this process use the live model; yield its key."""
    _live[key := uuid.uuid4().hex] = os.getpid(), sampler
    try:
        yield key
    finally:
        del _live[key]


def sampler_in_worker(key: str, how: Making | None, identity: str) -> Sampler:
    """Return the model in a worker: the live one in a thread or a fork; any other is loaded once, and kept.

    Raises `ModelRefused` if it cannot be loaded, or if what was loaded is not the model asked for.
    """
    if key in _live:
        process, sampler = _live[key]
        if process != os.getpid():
            # The threads of the process that was forked are not in the fork, which would wait for them for ever.
            torch.set_num_threads(1)
        return sampler
    if how is None:
        raise ModelRefused("the worker was forked before the model was made: make the pool after the model")
    with _loading:
        if identity not in _loaded:
            _loaded.clear()
            _loaded[identity] = _load(how, identity)
        return _loaded[identity]


def _load(how: Making, identity: str) -> Sampler:
    ways: list[Callable[[], Sampler]]
    if isinstance(how, NamedModel):  # the parts of a pipeline may also have several dtypes, as they were saved
        dtypes = (None, "float32") if how.dtype is None else (how.dtype, None)
        ways = [partial(how.load, dtype) for dtype in dtypes]
    else:
        make = how
        ways = [lambda: sampler_of(make())]
    found = ""
    for way in ways:
        try:
            sampler = way()
            if (found := sampler.identity) == identity:
                return sampler
        except Exception as error:
            raise ModelRefused(f"a worker cannot make {_said(how)}: {said(error)}") from error
    raise ModelRefused(
        f"{_said(how)} is in a worker another model than here: {found}, not {identity}; if it was changed after it was "
        f"loaded, give a function without arguments that makes it, as in experiment(make_model, ...)"
    )


def _said(how: Making) -> str:
    return f"the model {how.source!r}" if isinstance(how, NamedModel) else f"the model of {how!r:.80}"


def _will_fork(executor: ProcessPoolExecutor) -> bool:
    """Whether the processes of a pool are forks of this one that are still to be made."""
    context: Any = getattr(executor, "_mp_context", None)
    return context is not None and context.get_start_method() == "fork" and not getattr(executor, "_processes", None)


def _device(sampler: Sampler) -> str:
    model = getattr(sampler, "model", None)
    return "cpu" if model is None else str(model.device.type)
