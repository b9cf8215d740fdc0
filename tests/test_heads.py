"""`Heads`: the mean of the chosen heads, from the probabilities themselves."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, attributions
from sdprobe.plot.resized import resize
from tests.laws.strategies import run


class Probabilities(sdprobe.Observer):
    """Keeps what every head gives each token, at every call."""

    kinds = ("cross",)

    def start(self, run):
        self.kept = {}

    def attention(self, attn, site):
        self.kept.setdefault((site.name, site.grid), []).append(attn.probs(rows="cond"))


def test_it_is_the_mean_of_the_chosen_heads(tiny):
    own = run(tiny, AttentionMaps(keep=("layer", "head")), Probabilities(), prompt="a checkered circle")
    kept = own[Probabilities].kept
    (small, grid), (large, size) = sorted(kept, key=lambda key: key[1])[:: len(kept) - 1]
    tokens = list(own.prompts[0].positions("checkered"))
    maps = [
        torch.stack(kept[name, g])[:, 0, head][..., tokens].mean((0, -1)).unflatten(0, g)
        for name, g, head in ((small, grid, 1), (large, size, 0))
    ]
    expected = torch.stack([resize(own_map, size, "bilinear") for own_map in maps]).mean(0)
    method = attributions.Heads([(small, 1), (large, 0)])
    assert torch.allclose(method.heat_map(own, "checkered").values, expected, atol=1e-6)
    alone = run(tiny, method.hooks(), prompt="a checkered circle")
    assert torch.allclose(method.heat_map(alone, "checkered").values, expected, atol=1e-6)


def test_heads_that_there_are_not_are_refused(tiny):
    own = run(tiny, AttentionMaps(keep=("layer", "head")))
    site = next(name for name, kind in own.coverage.sites.items() if kind == "cross")
    for head in (9, -1):
        with pytest.raises(ValueError, match=f"head {head} of {site} was not recorded"):
            attributions.Heads([(site, head)]).heat_map(own, "red")
    with pytest.raises(ValueError, match="choose heads"):
        attributions.Heads([])
    with pytest.raises(ValueError, match="'heads' cannot be built with"):
        attributions.create("heads")
