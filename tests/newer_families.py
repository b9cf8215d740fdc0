"""Tiny pipelines of the newer families, called by themselves and by `sample`, in the sizes that are theirs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
from torch import Tensor

import sdprobe
from sdprobe.testing.stock_call import call_stock
from tests.families import ASKED, FAMILIES, OLDER

NEWER: dict[str, Callable[[], Any]] = {name: make for name, make in FAMILIES.items() if name not in OLDER}
OFTEN = ("AuraFlow", "CogVideoX")
"""One of pictures and one of videos, of the quickest: they are tried in every run of the tests, others at night."""


def settings(family: str, **asked: Any) -> dict[str, Any]:
    """What runs of a family are asked for."""
    usual = {"prompt": "a red circle", "steps": 3, "guidance_scale": 4.0, "seed": 5, "height": 16, "width": 16}
    return usual | ASKED.get(family, {}) | asked


def stock(pipe: Any, family: str, output_type: str = "latent", **asked: Any) -> Tensor:
    """What the stock pipeline returns."""
    return call_stock(sdprobe.load(pipe), settings(family, **asked), output_type)


def run(pipe: Any, family: str, *hooks: Any, **asked: Any) -> sdprobe.Run:
    """The same with `sample`."""
    return sdprobe.sample(pipe, hooks=hooks, progress=False, **settings(family, **asked))


def attached(pipe: Any, family: str, *hooks: Any, **asked: Any) -> tuple[Tensor, sdprobe.Run]:
    """The same with `attach`: the stock pipeline's latents, and the run."""
    with sdprobe.attach(pipe, hooks=hooks) as own:
        return stock(pipe, family, **asked), own


def latents_of(pipe: Any, own: sdprobe.Run) -> Tensor:
    """The final latents of a run, as the stock pipeline returns them."""
    return sdprobe.load(pipe).latents_returned(own.latents)


def at_night(cases: Iterable[tuple[str, ...]], often: Collection[str] = OFTEN) -> list[Any]:
    """Cases that end with a family; those of families that are not tried often are left to the night."""
    return [
        pytest.param(*case, id=", ".join(case), marks=[pytest.mark.nightly] * (case[-1] not in often)) for case in cases
    ]
