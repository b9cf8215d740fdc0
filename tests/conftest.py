"""Shared ground of the tests: tiny models of the real classes with random weights, and one thread.

With torch's default number of threads, tests on a tiny model are several times slower.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from hypothesis import HealthCheck, settings

import sdprobe
from tests.tiny import stable_diffusion
from tests.unknown_pipelines import Unknown, picture, two_networks, video

torch.set_num_threads(1)
# What a change is held to is the same each time; what nobody thought of is looked for at night.
usual = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("quick", max_examples=15, derandomize=True, **usual)
settings.register_profile("short", max_examples=100, derandomize=True, **usual)
settings.register_profile("anew", max_examples=15, **usual)
settings.register_profile("nightly", max_examples=3000, **usual)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_addoption(parser):
    """The device of the tests in tests/gpu, which otherwise need a GPU: ``-m gpu --device cpu`` tries them on a CPU."""
    parser.addoption("--device", default="cuda", help="the device of tests marked gpu (default: %(default)s)")


@pytest.fixture(scope="session")
def tiny() -> sdprobe.Model:
    """A random Stable Diffusion, epsilon-prediction."""
    return sdprobe.load(stable_diffusion())


@pytest.fixture(scope="session")
def tiny_v() -> sdprobe.Model:
    """A random Stable Diffusion, v-prediction."""
    return sdprobe.load(stable_diffusion(prediction_type="v_prediction"))


@pytest.fixture(scope="session")
def embedded() -> sdprobe.Model:
    """The model in the box."""
    return sdprobe.load()


@pytest.fixture
def reopened(tmp_path):
    """Saves a run, without a warning, and opens it."""

    def saved(live: sdprobe.Run) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return sdprobe.open(live.save(tmp_path / f"run {len([*tmp_path.iterdir()])}"))

    return saved


@pytest.fixture(scope="module")
def kandinsky() -> Unknown:
    """A pipeline of pictures that no family knows."""
    return picture()


@pytest.fixture(scope="module")
def latte() -> Unknown:
    """A pipeline of videos that no family knows."""
    return video()


@pytest.fixture(scope="module")
def two() -> Unknown:
    """A pipeline of two networks that no family knows."""
    return two_networks()


@pytest.fixture
def backend_of_others_stays(monkeypatch):
    """Where diffusers is given a backend for one model, it takes it for all that have none of their own."""
    registry = attention_dispatch._AttentionBackendRegistry
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)
