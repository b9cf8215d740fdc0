"""Attention matrices as labelled arrays: each is what the hook itself answers."""

from __future__ import annotations

import numpy as np
import pytest

import sdprobe
from sdprobe import AttentionMatrices, only
from sdprobe.runs.export.labelled_arrays import labelled_arrays
from tests.families import FAMILIES
from tests.laws.strategies import run

PROMPTS = ["a red circle", "a blue star and a red ring"]
SMALL = {"height": 16, "width": 16, "prompt": PROMPTS}


def arrays(result):
    found = labelled_arrays(result)
    assert found.attrs["left_out"] == []
    return {own.name: own for own in found.arrays}


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion 3.5", "Flux.1 dev"])
@pytest.mark.parametrize("keep", [(), ("step",), ("step", "layer")])
def test_they_are_the_matrices_of_the_hook(family, keep):
    hook = AttentionMatrices(keep=keep)
    result = run(sdprobe.load(FAMILIES[family]()), hook, **SMALL)
    found = {name: own for name, own in arrays(result).items() if name.startswith("matrix_")}
    assert {(k.kind, k.from_, k.to, k.grid) for k in result[hook].sums} == {
        (own.attrs["kind"], *name.split("_")[2:5:2], tuple(own.attrs["grid"])) for name, own in found.items()
    }
    for name, own in found.items():
        from_, to = name.split("_")[2:5:2]
        asked = {"kind": own.attrs["kind"], "grid": tuple(own.attrs["grid"])}
        at = [slice(None)] * len(keep)
        for k, dim in enumerate(own.dims[1 : 1 + len(keep)]):
            asked[keep[k]], at[k] = own.coords[dim][1][-1].item(), -1
        expected = result[hook].matrix(from_, to, 1, **asked)
        assert np.array_equal(own.values[1, *at], expected.numpy())
        if to == "text":
            texts = own.coords[own.dims[-1].replace("token", "token_text")][1][1]
            words = result.prompts[1]
            assert [texts[i] for i in words.positions("ring")] == [words.spelt(i) for i in words.positions("ring")]


def test_roles_and_images_have_their_names(tiny):
    hook = AttentionMatrices([("image", "text")], grids=[4], rows="both")
    found = arrays(run(tiny, only(hook, rows=lambda row: row.image == 1), prompt=PROMPTS))
    names = {name for name in found if name.startswith("matrix_")}
    assert names == {f"matrix_cross_image_to_text_4x4_{role}" for role in ("cond", "uncond")}
    cond = found["matrix_cross_image_to_text_4x4_cond"]
    assert cond.coords[cond.dims[0]][1].tolist() == [1]
    assert np.allclose(cond.values.sum(-1), 1)
