"""The heads of a model: all of a module's, ablated, are what goes into its last layer."""

import pytest
import torch

import sdprobe
from sdprobe.experiments.heads_of_model import ablate, heads_of
from tests.families import FAMILIES
from tests.test_patch_sweep import SETTINGS

WITHOUT_HEADS = {
    "Stable Diffusion XL": ("mid_block*0.attn2", [("mid_block*0.attn2.to_out.0", "input")]),
    "Stable Diffusion 3": (
        "transformer_blocks.0.attn",
        [
            ("transformer_blocks.0.attn.to_out.0", "input"),
            ("transformer_blocks.0.attn.to_add_out", "input"),
        ],
    ),
    "Flux.1 dev": ("single_transformer_blocks.0.attn", [("single_transformer_blocks.0.attn", "output")]),
}


@pytest.mark.parametrize("family", WITHOUT_HEADS)
def test_all_heads_of_a_module_are_the_whole_of_it(family):
    model = sdprobe.load(FAMILIES[family]())
    module, wholes = WITHOUT_HEADS[family]
    settings = {**SETTINGS, "seed": 0, "progress": False}
    heads = heads_of(model, module)
    if family == "Stable Diffusion XL":
        heads = [head for head in heads if head.module.endswith("transformer_blocks.0.attn2")]
    whole = [sdprobe.Ablate(pattern, sides=side) for pattern, side in wholes]
    runs = [sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in (ablate(heads), whole, [])]
    assert torch.equal(runs[0].latents, runs[1].latents)
    assert not torch.equal(runs[0].latents, runs[2].latents)


def test_one_hook_ablates_the_heads_of_a_module(tiny):
    heads = heads_of(tiny)
    hooks = ablate([heads[0], heads[2], heads[1]], "mean")
    assert [(hook.modules, hook.heads, hook.with_) for hook in hooks] == [
        ((f"{heads[0].module}.to_out.0",), [0, 1], "mean"),
        ((f"{heads[2].module}.to_out.0",), [0], "mean"),
    ]


def test_a_pattern_without_attention_to_the_text_is_refused(tiny):
    with pytest.raises(ValueError, match=r"'\*attn1' fits no attention that reads the text; there are down_blocks.0"):
        heads_of(tiny, "*attn1")
