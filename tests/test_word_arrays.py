"""Gradients of words and outputs of concepts as labelled arrays: each is what the hook itself answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdprobe import ConceptOutputs, WordGradients
from sdprobe.plot.resized import at_largest
from sdprobe.runs.export.labelled_arrays import labelled_arrays
from tests.laws.strategies import run

PROMPTS = ["a red circle", "a blue star"]


def named(result, begin):
    """The arrays whose names begin so, as tensors by name."""
    found = [own for own in labelled_arrays(result).arrays if own.name.startswith(begin)]
    return {own.name: own for own in found}


def whole(arrays, image, number, weight):
    """What arrays of several grids are together, at the largest."""
    return sum(
        at_largest([torch.from_numpy(own.values[image, number]), torch.zeros(8, 8)])[0] * weight(own)
        for own in arrays.values()
    )


@pytest.fixture(scope="module")
def gradients(tiny):
    hook = WordGradients(["red", "star", "circle"], path=1)
    return run(tiny, hook, prompt=PROMPTS)


def test_gradients(gradients):
    hook = gradients[WordGradients]
    norms = named(gradients, "word_gradient_norm")
    assert {own.attrs["divided_by"] for own in norms.values()} == set(hook.counts.values())
    for kind, weight in (
        ("norm", lambda own: own.attrs["divided_by"] / sum(hook.counts.values())),
        ("product", lambda own: own.values[0, 0].size / 64),
        ("path", lambda own: own.values[0, 0].size / 64),
    ):
        found = named(gradients, f"word_gradient_{kind}")
        assert [own.values.shape[2:] for own in found.values()] == [(8, 8), (4, 4), (2, 2)][: len(found)]
        texts = next(iter(found.values())).coords["word_text"][1]
        assert texts.tolist() == [["red", "circle"], ["star", ""]]
        for image, number, word in ((0, 0, "red"), (0, 1, "circle"), (1, 0, "star")):
            expected = hook.values(word, kind, image)
            assert torch.allclose(whole(found, image, number, weight), expected, rtol=1e-4, atol=1e-7)
        assert all(np.isnan(own.values[1, 1]).all() for own in found.values())
    (change,) = named(gradients, "word_gradient_change").values()
    assert change.values[0, 1] == pytest.approx(hook.total("circle")[1])


def test_concepts(tiny):
    hook = ConceptOutputs()
    result = run(tiny, hook, prompt=["a red circle", "a star"])
    own = result[hook]
    weight = {grid: count / sum(own.counts.values()) for grid, count in own.counts.items()}
    for kind in ("share", "score"):
        found = named(result, f"concept_{kind}")
        for image, word in ((0, "circle"), (1, "star")):
            number = own.names[image].index(word)
            together = whole(found, image, number, lambda array: weight[array.values.shape[2:]])
            assert torch.allclose(together, own.values(word, kind, image), rtol=1e-4, atol=1e-6)
    shares = next(iter(named(result, "concept_share").values())).values
    assert np.allclose(np.nansum(shares, 1), 1, atol=1e-5)
