"""`WordPlaces`: the running mean is the map that `AttentionMaps` records, for each picture and its own words."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, Transform
from sdprobe.transform.attention_edits.word_places import WordPlaces
from tests.families import FAMILIES
from tests.laws.strategies import run

TWO = ["a red circle", "a star left of a red circle and a circle"]


class Look(Transform):
    kinds = ("cross", "joint")

    def __init__(self, words):
        self.words = words

    def start(self, run):
        self.places = WordPlaces(self.words)

    def attention(self, attn, site):
        self.places.add(attn, site)
        return attn


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion 3.5", "Flux.1 dev"])
def test_it_is_the_map_of_the_words(family):
    model = sdprobe.load(FAMILIES[family]())
    look, maps = Look([["circle"], ["circle"], ["star", "red"], ["blue"]]), AttentionMaps()
    found = run(model, look, maps, prompt=TWO, images_per_prompt=2, width=32, height=16, steps=3)
    places, recorded = found[look].places, found[maps]
    assert torch.equal(found.latents, run(model, prompt=TWO, images_per_prompt=2, width=32, height=16, steps=3).latents)
    prompts = [found.prompt_of(image) for image in range(4)]
    for image, words in enumerate(look.words[:3]):
        # A heat map is the mean over a word's tokens, and these are added.
        own = sum(
            recorded.heat_map(position, image=image).values
            for word in words
            for position in prompts[image].positions(word)
        )
        torch.testing.assert_close(places.at()[image], own)
    assert not places.at()[3].any()  # no prompt has a blue thing
    largest = places.at().shape[-2:]
    assert places.at((64, 128)).shape == (4, 64, 128)
    assert tuple(places.at(grids=[places.grids[-1]]).shape[-2:]) == tuple(largest)


def test_the_usual_grid(embedded):
    look = Look([["circle"]])
    places = WordPlaces([["circle"]])
    with pytest.raises(ValueError, match="was seen yet"):
        places.usual_grid()
    places = run(embedded, look, steps=1)[look].places
    assert places.usual_grid() == (16, 16)
    with pytest.raises(ValueError, match=r"has a grid of \[\(3, 3\)\]; those seen"):
        places.at(grids=[(3, 3)])
