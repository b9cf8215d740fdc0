"""How a worker gets its model: the live one, or by name, and never another than the one asked for."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch
from diffusers import EulerDiscreteScheduler

import sdprobe
from sdprobe.experiments import attached
from sdprobe.experiments.named_model import (
    ModelRefused,
    live_here,
    name_model,
    refuse_unreachable,
    sampler_in_worker,
)
from sdprobe.experiments.sampler import is_function, sampler_of
from tests.swept import brightness, sweep
from tests.time_limit import at_most
from tests.tiny import stable_diffusion

FORK = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="of POSIX")


def make():
    torch.manual_seed(0)
    return stable_diffusion()


def make_another_each_time():
    pipe = stable_diffusion()
    with torch.no_grad():
        pipe.unet.conv_in.bias.add_(torch.rand(()))
    return pipe


def test_what_is_a_function(embedded):
    assert is_function(make)
    assert not any(map(is_function, (embedded, embedded.pipe, attached(embedded.pipe), "shapes", None)))


def test_a_live_pipeline_is_no_function(embedded):
    """It can be called, but it is the model."""
    assert sweep(1, embedded.pipe, measures=brightness).rows == sweep(1, embedded, measures=brightness).rows


def test_loaded_once_and_kept():
    how = name_model(sampler_of(sdprobe.load()))
    identity = sampler_of(sdprobe.load()).identity
    one = sampler_in_worker("of another process", how, identity)
    assert one.identity == identity
    assert sampler_in_worker("of yet another", how, identity) is one
    by_function = sampler_in_worker("of a third", make, sampler_of(make()).identity)
    assert by_function is not one


def test_with_its_dtype_scheduler_and_arguments():
    model = sdprobe.load(dtype=torch.float16)
    model.pipe.scheduler = EulerDiscreteScheduler.from_config(model.pipe.scheduler.config)
    live = attached(model.pipe, eta=0.5)
    named = name_model(live)
    assert (named.source, named.dtype, named.device) == ("shapes", "float16", None)
    found = sampler_in_worker("of another process", named, live.identity)
    assert found.identity == live.identity
    assert (found.model.denoiser.dtype, dict(found.arguments)) == (torch.float16, {"eta": 0.5})


def test_another_model_is_refused():
    model = sdprobe.load()
    with torch.no_grad():
        model.pipe.unet.conv_in.bias.add_(1)
    sampler = sampler_of(model)
    with pytest.raises(
        ModelRefused, match=r"the model 'shapes' is in a worker another model than here: .* give a func"
    ):
        sampler_in_worker("of another process", name_model(sampler), sampler.identity)
    identity = sampler_of(make_another_each_time()).identity
    with pytest.raises(ModelRefused, match=r"the model of <function make_another.*> is in a worker another model"):
        sampler_in_worker("of another process", make_another_each_time, identity)


def fails():
    raise OSError("no such disk")


def test_a_model_that_cannot_be_made_is_refused():
    with pytest.raises(ModelRefused, match=r"a worker cannot make the model of <function fails.*OSError: no such disk"):
        sampler_in_worker("of another process", fails, "any")
    with pytest.raises(ModelRefused, match=r"the worker was forked before the model was made"):
        sampler_in_worker("of another process", None, "any")


def test_the_live_model_is_used_here_while_it_is_open(embedded):
    sampler = sampler_of(embedded)
    with live_here(sampler) as key:
        assert sampler_in_worker(key, None, "any") is sampler
    with pytest.raises(ModelRefused):
        sampler_in_worker(key, None, "any")


def test_a_model_in_memory_needs_a_function(tiny):
    sampler = sampler_of(tiny)
    assert name_model(sampler) is None
    refuse_unreachable(ThreadPoolExecutor(1), None, sampler)
    spawning = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    for executor in (spawning, Executor()):
        with pytest.raises(
            ValueError, match=r"the model was made in memory.*give a function without arguments that make"
        ):
            sweep(1, tiny, executor=executor)
    assert not spawning._processes, "nothing was submitted"


@FORK
def test_a_fork_has_the_live_model_and_one_thread(tiny):
    """A fork with more threads than one would wait for ever for threads that only its parent has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(512, 512) @ torch.ones(512, 512)
        with at_most(60), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
            found = sweep(1, tiny, measures={"threads": threads, "process": process}, executor=executor)
    finally:
        torch.set_num_threads(before)
    assert found.values("blank", "threads") == [1.0]
    assert found.values("blank", "process") != [float(os.getpid())]


def threads(run):
    return torch.get_num_threads()


def process(run):
    return os.getpid()


def test_what_a_pool_cannot_send_is_named(embedded):
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with pytest.raises(
        ValueError, match=r"the measure 'local' cannot be sent to another process .*: use a function of a"
    ):
        sweep(1, embedded, measures={"local": lambda run: 0}, executor=executor)
    with pytest.raises(ValueError, match=r"the function that makes the model cannot be sent to another process"):
        sweep(1, lambda: embedded, measures=brightness, executor=executor)
    assert not executor._processes
