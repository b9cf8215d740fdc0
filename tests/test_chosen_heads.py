"""`chosen_heads`: heads by their numbers, at sites of different numbers of heads."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

import sdprobe
from sdprobe import AttentionTemperature, Concentrate, HideTokens, ReweightAttention, ScaleHeads, SharpenAttention
from tests.families import FAMILIES
from tests.laws.strategies import run


@pytest.fixture(scope="module")
def uneven():
    """A model with 2 heads at the finer sites and 4 at the coarser."""
    pipe = FAMILIES["Stable Diffusion 1"]()
    torch.manual_seed(0)
    pipe.register_modules(unet=UNet2DConditionModel.from_config({**pipe.unet.config, "attention_head_dim": (2, 4)}))
    return sdprobe.load(pipe)


HOOKS = {
    "temperature": lambda **own: AttentionTemperature(2.0, **own),
    "concentrate": lambda **own: Concentrate("red", (0.0, 0.0, 0.5, 1.0), **own),
    "hide": lambda **own: HideTokens("red", **own),
    "reweight": lambda **own: ReweightAttention({"red": 3.0}, **own),
    "sharpen": lambda **own: SharpenAttention("red", 2.0, **own),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_head_that_some_sites_lack_is_that_of_the_others(uneven, name):
    hook = HOOKS[name]
    counts = {own: module.heads for own, module in uneven.modules.items() if uneven.attention_kind(module)}
    assert set(counts.values()) == {2, 4}
    coarse = [own for own, heads in counts.items() if heads == 4]
    found = run(uneven, hook(heads=[3]))
    assert torch.allclose(found.latents, run(uneven, hook(heads=[3], modules=coarse)).latents, atol=1e-5)
    assert not torch.equal(found.latents, run(uneven).latents)
    for own in ({"heads": [4]}, {"heads": [3], "modules": [own for own in counts if own not in coarse]}):
        with pytest.raises(ValueError, match=r"none of its sites has a head \d; they have up to"):
            run(uneven, hook(**own))


def test_so_are_factors_by_number(uneven):
    assert not torch.equal(run(uneven, ScaleHeads({"*": {3: 0.0}})).latents, run(uneven).latents)
    with pytest.raises(ValueError, match=r"no site that fits '\*' has a head 4; they have up to 4"):
        run(uneven, ScaleHeads({("*", 4): 0.0}))
