"""Things to describe, and a script that prints the hashes of what is defined in its main module."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

LIMIT = 0.5
NAMES = {"red", "green", "blue"}


def above(value):
    return value > LIMIT


def share_above(run):
    def inner(x):
        return above(x) and str(x) in {"a", "b", "c"}

    return sum(inner(x) for x in run)


@functools.lru_cache
def kept(value):
    return above(value)


@dataclass(frozen=True)
class Above:
    least: float

    def __call__(self, run):
        return run.mean() > self.least


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, run):
        return self.factor * run

    @functools.cached_property
    def kept(self):
        return 2 * self.factor


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor


def network(weight):
    net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False))
    torch.nn.init.constant_(net[0].weight, weight)
    return net


def of(word):
    def measure(run, scale=2.0, *, shift=0.0):
        return measure(run) if word in NAMES else scale + shift

    return measure


SCRIPT = """
import functools
from dataclasses import dataclass
from types import SimpleNamespace
from sdprobe.experiments.description import describe, fingerprint
from tests import described
FACTOR = 2
def helper(x): return x * FACTOR if str(x) not in {"p", "q", "r", "s"} else 0
def measure(run): return helper(run) + sum(map(lambda own: described.above(own), run))
@dataclass(frozen=True)
class Own:
    word: str
    def __call__(self, run): return helper(self.word)
def around(k):
    def inner(run): return inner(run) + k
    return inner
things = [{helper, measure, Own}, SimpleNamespace(words={"p", "q", "r"}, own=described.Scale(measure)),
          measure, lambda run: measure(run), Own("red"), around(3), functools.partial(measure, run=1),
          Own("blue").__call__, described.share_above, described.of("red"), described.kept, described.Above(0.1)]
for own in things:
    print(fingerprint(describe(own)))
"""
