"""`attach` to pipelines of somebody's own: without a scheduler, with a copied one, with attention of no known class."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from torch import nn

import sdprobe
from tests.unknown_pipelines import STEPS, Unknown, attached


class OwnAttention(nn.Module):
    """Attention of no class of diffusers, whose mask is causal or not."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal, self.to_q = causal, nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.to_q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=self.causal).transpose(1, 2).flatten(-2)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen, self.causal = OwnAttention(False), OwnAttention(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.causal(self.seen(x))


class WithoutScheduler(DiffusionPipeline):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.register_modules(network=network)

    @torch.no_grad()
    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(1, 5, 8, generator=generator)
        for _ in range(STEPS):
            x = self.network(x)
        return x


def test_a_pipeline_without_a_scheduler_has_attention_and_activation():
    torch.manual_seed(0)
    own = Unknown(WithoutScheduler(Own()), {}, "seen", "network", lambda found: found)
    plain, indices, acts = own(), [], []
    hooks = [
        sdprobe.watch("attention", lambda attn, site: indices.append((site.name, site.kind, site.index))),
        sdprobe.watch("activation", lambda x, site: acts.append(site.index), modules="seen"),
    ]
    run, found = attached(own, *hooks)
    assert torch.equal(found, plain)
    assert indices == [("seen", "unknown", i) for i in range(STEPS)]
    assert acts == [0, 1, 2]
    assert "causal" in run.coverage.missed["causal"]
    assert any("no part named scheduler" in own for own in run.coverage.unknown)
    with pytest.raises(ValueError, match="noise_pred, which cannot be had in WithoutScheduler"):
        attached(own, sdprobe.on("noise_pred", lambda x: x))


def test_a_copy_of_the_scheduler_steps_by_itself(two):
    class Copies(type(two.pipe)):
        @torch.no_grad()
        def __call__(self, count: int, generator: torch.Generator) -> torch.Tensor:
            own = self.scheduler
            self.scheduler = copy.deepcopy(own)
            try:
                return super().__call__(count, generator)
            finally:
                self.scheduler = own

    copies = two._replace(pipe=Copies(**two.pipe.components))
    plain = copies()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the observer was never called
        run, found = attached(copies, sdprobe.watch("noise_pred", lambda x: None))
    assert torch.equal(found, plain)
    assert "the steps of copies that the pipeline makes of its scheduler" in run.coverage.unknown


def test_what_is_no_pipeline_is_refused():
    with pytest.raises(TypeError, match="takes a live diffusers pipeline, not int"), sdprobe.attach(3):
        pass
