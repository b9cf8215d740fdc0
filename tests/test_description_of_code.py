"""A function is another one once a value that it uses, or a module that it imports, is."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from sdprobe.experiments.description import describe, fingerprint
from tests import described
from tests.test_description import made, same

HOLDER = """
def measure(run):
    return helper(run, cfg)
def helper(run, cfg):
    return run
cfg = None
"""


def held(value):
    """A measure that uses a value of its module."""
    measure = made(HOLDER)
    measure.__globals__["cfg"] = value
    return measure


@pytest.mark.parametrize(
    "make",
    [
        lambda t: SimpleNamespace(t=t),
        lambda t: Namespace(t=t),
        described.Scale,
        described.Slotted,
        lambda t: {"t": t, "lock": threading.Lock()},
        lambda t: [threading.Lock(), {"a": (t,)}],
        lambda t: SimpleNamespace(inner=described.Scale(t), lock=threading.Lock()),
        lambda t: functools.partial(described.above, (threading.Lock(), t)),
        described.network,
        lambda t: torch.nn.Dropout(t / 10),
    ],
)
def test_what_an_object_holds(make):
    assert same(held(make(0.5)), held(make(0.5)))
    assert not same(held(make(0.5)), held(make(0.6)))


class Wrapper:
    def __init__(self, function, factor):
        functools.update_wrapper(self, function)
        self.factor = factor

    def __call__(self, run):
        return self.factor * self.__wrapped__(run)


def test_an_object_that_wraps_a_function():
    assert same(held(Wrapper(described.above, 1)), held(Wrapper(described.above, 1)))
    assert not same(held(Wrapper(described.above, 1)), held(Wrapper(described.above, 2)))
    assert not same(held(Wrapper(described.above, 1)), held(Wrapper(described.share_above, 1)))


@pytest.mark.parametrize(
    "source",
    [
        "from described_pk.h import f\n    return f(run)",
        "from described_pk import h\n    return h.f(run)",
        "import described_pk.h as h\n    return h.f(run)",
        "from described_pk.g import f\n    return f(run)",
        "return described_pk.h.f(run)",
    ],
)
def test_modules_within_a_package(tmp_path, monkeypatch, source):
    """Modules that the measure imports are those that are there, and whether they are loaded changes nothing."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "described_pk"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "g.py").write_text("def f(run):\n    from .h import f\n    return f(run)\n")
    live, found = source.startswith("return"), []
    for body in ("run + 1", "run + 1  # a comment", "run + 22"):
        (folder / "h.py").write_text(f"import described_pk.g\nimport described_pk\ndef f(run):\n    return {body}\n")
        importlib.invalidate_caches()
        head = "import described_pk.h\n" if live else ""
        measure = made(f"{head}def measure(run):\n    {source}\n")
        found.append(fingerprint(describe(measure)))
        assert live or "described_pk" not in sys.modules, "nothing is imported to describe it"
        measure(1)
        assert fingerprint(describe(measure)) == found[-1]
        for name in [name for name in sys.modules if name.startswith("described_pk")]:
            del sys.modules[name]
    assert found[0] == found[1] != found[2]
