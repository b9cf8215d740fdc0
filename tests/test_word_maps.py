"""Maps of all words at once are those of one word at a time; and DAAM's are those of torch's own resizing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe import AttentionMaps
from sdprobe.observe.daam import daam_maps
from sdprobe.plot.resized import resize
from tests.laws.strategies import run

PROMPT = "a red circle and a checkered blue circle"
keeps = st.sets(st.sampled_from(["step", "layer", "head"])).map(tuple)


@given(keep=keeps, method=st.sampled_from(["mean", "daam"]), dtype=st.sampled_from(["float32", "float16"]))
def test_all_words_at_once_are_each_word_by_itself(tiny, keep, method, dtype):
    maps = AttentionMaps(keep=keep, dtype=dtype, rows="both")
    result = run(tiny, maps, prompt=PROMPT, negative_prompt="a green star", images_per_prompt=2)
    for image, role in ((0, "cond"), (1, "cond"), (1, "uncond")):
        every = result[maps].heat_maps(image, method, role=role)
        assert list(every) == list(result.prompt_of(image, role).words)
        for word, heat in every.items():
            alone = result[maps].heat_map(word, image=image, method=method, role=role)
            assert heat.word == alone.word == word
            assert torch.equal(heat.values, alone.values)
            assert heat.picture is alone.picture


def test_the_mean_over_sums_is_theirs(tiny):
    """In plain torch: the columns of a word, resized and averaged."""
    maps = AttentionMaps(keep=("step", "layer", "head"))
    own = run(tiny, maps, prompt=PROMPT, steps=3)[maps]
    for word, heat in own.heat_maps().items():
        columns = list(own.run.prompts[0].positions(word))
        each = [total[0, ..., columns].mean((0, 2)).unflatten(0, key.grid) for key, total in own.sums.items()]
        expected = torch.stack([resize(part, (8, 8), "bilinear") for part in each]).mean(0)
        assert torch.allclose(heat.values, expected, atol=1e-7)


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (128, 128)])
def test_daam_resizes_as_torch_does(size):
    torch.manual_seed(0)
    shapes = {"down": (2, 3, 4, 6), "up.1": (3, 3, *size), "up.2": (1, 3, 32, 32)}
    layers = {name: torch.rand(shape).pow(8) for name, shape in shapes.items()}
    expected = torch.cat([resize(own, size).clamp_min(0) for own in layers.values()]).mean(0)
    assert torch.allclose(daam_maps(layers.items(), size), expected, atol=1e-6)
    with pytest.raises(ValueError, match="down and up blocks only"):
        daam_maps([("mid_block", layers["down"])], size)
