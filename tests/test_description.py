"""What is described is the same in every process, and another once anything that it does is."""

from __future__ import annotations

import functools
import operator
import os
import subprocess
import sys
import threading
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

import sdprobe
from sdprobe.experiments import Case
from sdprobe.experiments.description import describe, fingerprint
from tests import described

ROOT = Path(__file__).resolve().parent.parent


def same(a, b) -> bool:
    return fingerprint(describe(a)) == fingerprint(describe(b))


@pytest.mark.slow
def test_the_same_in_other_processes_and_when_they_are_started_again(tmp_path):
    """Also with other seeds of hash(), which order sets, and for a script, whose functions are of ``__main__``."""
    (tmp_path / "script.py").write_text(described.SCRIPT)
    found = []
    for seed, how in (("1", [str(tmp_path / "script.py")]), ("2", ["-c", described.SCRIPT])):
        around = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *how], env=around, cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0]) == 12
    here = [described.share_above, described.of("red"), described.kept, described.Above(0.1)]
    assert found[0][-4:] == [fingerprint(describe(own)) for own in here]


def made(source: str, name: str = "measure"):
    """What a module of this source defines, as if it was edited and loaded again."""
    around = {"__name__": "__main__"}
    exec(compile(source, "<edited>", "exec", dont_inherit=True), around)
    return around[name]


MEASURE = """
import functools
import json
LIMIT = 0.5
WORDS = ["red"]
def helper(x):
    return x + 1
class Base:
    start = 0
    def first(self):
        return self.start
class Own(Base):
    def second(self):
        return self.first() + 2
def measure(run, scale=2.0, *, shift=0.0):
    # a comment
    inner = lambda x: helper(x) > LIMIT
    return inner(run) and WORDS and Own().second() and json.dumps(run) in {"a", "b"}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + 1", "x + 2"),
        ("x + 1", "x - 1"),
        ("LIMIT = 0.5", "LIMIT = 0.6"),
        ('["red"]', '["red", "blue"]'),
        ("> LIMIT", ">= LIMIT"),
        ("start = 0", "start = 1"),
        ("return self.start", "return -self.start"),
        ("self.first() + 2", "self.first() + 3"),
        ("scale=2.0", "scale=3.0"),
        ("shift=0.0", "shift=1.0"),
        ('{"a", "b"}', '{"a", "c"}'),
        ("json.dumps", "json.loads"),
    ],
)
def test_another_once_it_is_edited(old, new):
    assert MEASURE.count(old) >= 1
    assert not same(made(MEASURE), made(MEASURE.replace(old, new)))


def test_a_comment_or_another_place_changes_nothing():
    assert same(made(MEASURE), made(MEASURE))
    assert same(made(MEASURE), made("\n\n" + MEASURE.replace("# a comment", "# another\n")))


def test_functions_that_only_differ_in_what_they_hold():
    shares = [lambda run, share=share: run * share for share in (0.1, 0.2)]
    assert not same(*shares)
    assert not same(described.of("red"), described.of("blue"))
    assert same(described.of("red"), described.of("red"))
    pair = (lambda run: run.a, lambda run: run.b)  # on one line, with one name
    assert not same(*pair)
    assert not same(described.Above(0.1).__call__, described.Above(0.2).__call__)
    assert not same("a".join, "b".join)
    assert not same(functools.partial(described.of, "a"), functools.partial(described.of, word="a"))
    assert not same(functools.partial(min, args=(1,)), functools.partial(min, 1))


def test_a_function_that_is_wrapped_and_functions_that_call_each_other():
    assert describe(described.kept)["wraps"]["uses"].keys() == {"above"}

    def decorated(factor):
        def around(function):
            @functools.wraps(function)
            def call(run):
                return factor * function(run)

            return call

        return around

    assert not same(decorated(1)(described.above), decorated(2)(described.above))
    around = {"__name__": "__main__"}
    # Each calls all: told once each, and not once for each way to it.
    exec("\n".join(f"def f{k}(x): return {' + '.join(f'f{j}(x)' for j in range(30))}" for k in range(30)), around)
    assert len(str(describe(around["f0"]))) < 200_000


class Colour(Enum):
    RED = 1
    BLUE = 2


def paletted(colour):
    """One picture of indices, all 0, whose colour is in the palette."""
    image = Image.new("P", (8, 8))
    image.putpalette(Image.new("RGB", (1, 1), colour).tobytes())
    return image


def test_values(tmp_path):
    image = Image.new("RGB", (8, 8), "red")
    path = tmp_path / "image.png"
    image.save(path)
    before = describe(path)
    Image.new("RGB", (8, 8), "blue").save(path)
    assert before != describe(path), "a file is its content"
    assert describe(tmp_path / "none") == {"path": str(tmp_path / "none")}
    different = [
        image,
        Image.new("RGB", (8, 8), "blue"),
        Image.new("L", (8, 8)),
        *(paletted(colour) for colour in ("red", "blue")),
        torch.zeros(2),
        torch.zeros(2, dtype=torch.int32),
        torch.tensor([2**53, 1]),
        torch.tensor([2**53 + 1, 1]),
        torch.tensor([1.0, 1.0 + 2**-50], dtype=torch.float64),
        torch.tensor([1.0, 1.0], dtype=torch.float64),
        torch.zeros(2, dtype=torch.bfloat16),
        np.zeros(2),
        np.zeros(2, dtype=np.int64),
        np.array(["a", None], dtype=object),
        np.array(["b", None], dtype=object),
        {1: "a"},
        {"1": "a"},
        {"a", "b"},
        {"a", ("b", 1)},
        ["a", "b"],
        True,
        1,
        1.5,
        "1",
        None,
        Colour.RED,
        Colour.BLUE,
        torch.float16,
        Case("a", 1),
        Case("a", 2),
        DDIMScheduler(),
        DDIMScheduler(beta_end=0.5),
        sdprobe.LatentRecorder(every=2),
        sdprobe.LatentRecorder(every=3),
    ]
    hashes = [fingerprint(describe(own)) for own in different]
    assert len(set(hashes)) == len(hashes)
    assert hashes == [fingerprint(describe(own)) for own in different]
    assert same(np.float64(0.5), 0.5)
    assert same(np.array(["a", None], dtype=object), np.array(["a", None], dtype=object))


def test_the_code_of_a_hook_of_ones_own():
    source = """
import sdprobe
@sdprobe.register("brighten-described")
class Brighten(sdprobe.Transform):
    def __init__(self, factor):
        self.factor = factor
    def prompt_embeds(self, x, text):
        return self.factor * x
"""
    one = describe(made(source, "Brighten")(1.1))
    again = describe(made(source, "Brighten")(1.1))
    other = describe(made(source.replace("factor * x", "factor + x"), "Brighten")(1.1))
    assert one == again != other
    assert one["hooks"] == other["hooks"]


def test_what_nothing_lasting_can_be_said_of():
    with pytest.raises(TypeError, match=r"measures\['a'\] is <.*lock.*of which nothing lasting can be said"):
        describe({"a": threading.Lock()}, "measures")
    with pytest.raises(TypeError, match=r"this.lock is <.*lock.*of which nothing lasting can be said"):
        describe(SimpleNamespace(lock=threading.Lock()))
    with pytest.raises(TypeError, match="an object whose class is no dataclass: make it a frozen dataclass"):
        describe(operator.itemgetter(0))


def test_an_object_as_a_measure_and_its_class():
    assert same(described.Scale(0.5), described.Scale(0.5))
    assert not same(described.Scale(0.5), described.Scale(0.6))
    source = (
        "class measure:\n    def __init__(self):\n        self.t = 1\n    def __call__(self, run):\n        return run"
    )
    assert same(made(source)(), made(source)())
    assert not same(made(source)(), made(source.replace("return run", "return -run"))())
    own = described.Scale(0.5)
    before = describe(own)
    assert own.kept == 1.0
    assert describe(own) == before, "what is computed when it is asked for is no other object"


def test_what_is_in_itself():
    own = described.Scale(0.5)
    own.own = [own]
    both = [1]
    both.append(both)
    assert describe(own)["fields"]["own"] == [{"around": 0}]
    assert describe(both) == [1, {"around": 0}]


def test_equal_numbers():
    assert same({"guidance_scale": 5}, {"guidance_scale": 5.0})
    assert not same({"guidance_scale": 5}, {"guidance_scale": 5.5})
    assert not same({"a": True}, {"a": 1.0})
    assert not same(*(lambda run, shift=shift: run + shift for shift in (1, 1.0)))  # of whole numbers or not


def test_hooks_act_in_their_order():
    hooks = {"b": sdprobe.LatentRecorder(every=2), "a": sdprobe.LatentRecorder(every=3)}
    assert describe(hooks) == [["b", [["latents", {"every": 2}]]], ["a", [["latents", {"every": 3}]]]]
    assert not same(hooks, dict(reversed(hooks.items())))


def test_a_scheduler_that_was_loaded(tmp_path):
    DDIMScheduler().save_pretrained(tmp_path)
    assert same(DDIMScheduler(), DDIMScheduler.from_pretrained(tmp_path))
