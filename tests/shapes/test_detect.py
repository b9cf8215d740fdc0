"""The detector against pictures whose content is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdprobe.shapes.detect import adherence, background, components, detect
from sdprobe.shapes.drawing import BACKGROUNDS, Object
from sdprobe.shapes.scenes import render, scene


def test_finds_what_is_there() -> None:
    scenes = [scene(40_000_000 + k, full=True) for k in range(200)]
    colours, shapes, grounds, counts, overlaps = [], [], [], [], []
    for own in scenes:
        found = detect(own.image)
        seen = adherence(own.objects, own.background, own.image)
        colours += seen.colours
        shapes += seen.shapes
        grounds.append(seen.background)
        counts.append(len(found) == len(own.objects))
        for thing, mask in zip(own.objects, own.masks, strict=True):
            same = next((f.mask for f in found if f.colour == thing.colour), ~mask)
            overlaps.append((same & mask).sum() / (same | mask).sum())
    assert np.mean(colours) >= 0.99
    assert np.mean(shapes) >= 0.97
    assert np.mean(grounds) >= 0.98
    assert np.mean(counts) >= 0.98
    assert np.mean(overlaps) >= 0.95


@given(st.integers(0, 10**9))
def test_relation_of_what_is_there_is_right(seed: int) -> None:
    own = scene(seed, objects=2, full=True)
    assert adherence(own.objects, own.background, own.image).relation in (True, None)


def test_adherence_to_another_scene_fails() -> None:
    asked = [Object("circle", "red", (16, 32), 11), Object("star", "blue", (48, 32), 11)]
    swapped = render([Object("star", "blue", (16, 32), 11), Object("circle", "red", (48, 32), 11)], "black")
    seen = adherence(asked, "white", swapped.image)
    assert seen.colours == seen.shapes == (True, True)
    assert seen.relation is False
    assert not seen.background
    bound_wrongly = render([Object("star", "red", (16, 32), 11), Object("circle", "blue", (48, 32), 11)])
    seen = adherence(asked, "white", bound_wrongly.image)
    assert seen.colours == (True, True)
    assert seen.shapes == (False, False)
    assert seen.relation is None


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_empty_ground(name: str) -> None:
    picture = render([Object("circle", "red", (200, 200), 5)], name).image
    assert detect(picture) == []
    assert background(picture) == name


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.7))
def test_components_are_a_partition_without_contact(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((16, 16)) < share
    parts = components(mask)
    assert (np.sum([np.zeros((16, 16)), *parts], axis=0) == mask).all()
    for k, part in enumerate(parts):
        padded = np.pad(part, 1)
        near = np.any([padded[y : y + 16, x : x + 16] for y in range(3) for x in range(3)], axis=0)
        assert not any((near & other).any() for j, other in enumerate(parts) if j != k)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[64, 64, 3\], not \[32, 32, 3\]"):
        detect(np.zeros((32, 32, 3), np.uint8))
