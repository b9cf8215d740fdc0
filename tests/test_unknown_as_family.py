"""What is seen of a pipeline that no family knows is what its family sees, where one does: tried on the families'."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sdprobe
from sdprobe.model.unknown.unknown_pipeline import UnknownPipeline
from sdprobe.testing import footprint
from tests.families import pixart, stable_diffusion_xl
from tests.stock_pipelines import (
    Stock,
    called,
    controlnet,
    flux_guided,
    image_to_image,
    instruct_pix2pix,
    sd3_controlnet,
    text_to_image,
)


def xl_text_to_image() -> Stock:
    return Stock(stable_diffusion_xl(), {})


def pixart_text_to_image() -> Stock:
    return Stock(pixart(), {"height": 16, "width": 16, "use_resolution_binning": False})


@pytest.fixture(
    scope="module",
    params=[
        text_to_image,
        image_to_image,
        controlnet,
        instruct_pix2pix,
        xl_text_to_image,
        sd3_controlnet,
        flux_guided,
        pixart_text_to_image,
    ],
    ids=lambda make: make.__name__,
)
def stock(request) -> Stock:
    found = request.param()
    found.pipe.set_progress_bar_config(disable=True)
    return found


class Sees(sdprobe.Observer):
    """Keeps what there is at the points that both have."""

    modules = ("*",)

    def start(self, run):
        self.attention_calls, self.activations, self.x, self.predicted = [], [], [], []

    def attention(self, attn, site):
        self.attention_calls.append((site.name, site.index, len(site.rows), attn.query.clone(), attn.key.clone()))

    def activation(self, x, site):
        # Which stream it is, and which rows a tensor has that has not one entry for each, only a family can say.
        self.activations.append((site.name, site.index, site.side, site.call, x.clone()))

    def latents(self, x, step):
        self.x.append(x.clone())

    def noise_pred(self, x, step):
        self.predicted.append((step.index, step.timestep, step.sigma, step.signal, step.noise, x.clone()))


def seen(pipe: Any, stock: Stock) -> tuple[sdprobe.Run, Sees, torch.Tensor]:
    with sdprobe.attach(pipe, sees := Sees()) as run:
        found = called(stock)
    return run, run[sees], found


def is_same(ours: Any, theirs: Any) -> bool:
    """Whether two records are equal; of latents, their values: a family takes them out of their form."""
    if isinstance(ours, torch.Tensor):
        return ours.numel() == theirs.numel() and torch.equal(ours.flatten().sort()[0], theirs.flatten().sort()[0])
    return ours == theirs


def test_it_sees_what_the_family_sees(stock):
    plain, before = called(stock), footprint(stock.pipe)
    run, ours, found = seen(UnknownPipeline(stock.pipe), stock)
    assert torch.equal(found, plain)
    assert {name: own for name, own in footprint(stock.pipe).items() if name != "scheduler"} == {
        name: own for name, own in before.items() if name != "scheduler"
    }
    known, theirs, same = seen(stock.pipe, stock)
    assert torch.equal(same, plain)
    for name in ("attention_calls", "activations", "x", "predicted"):
        records = getattr(ours, name), getattr(theirs, name)
        assert len(records[0]) == len(records[1]) > 0, name
        for one, other in zip(*records, strict=True):
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            assert all(is_same(*pair) for pair in pairs), (name, one[:4], other[:4])
    assert run.settings.steps == known.settings.steps
    assert run.seed == known.seed
