"""Attention and activations in the networks of a pipeline that no family knows, and in its parts beside them."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.unknown_pipelines import STEPS, attached


def test_kinds_are_those_that_are_known(latte, kandinsky):
    kinds = {}
    watch = sdprobe.watch("attention", lambda attn, site: kinds.update({site.name: (site.kind, site.text)}))
    attached(latte, watch)
    assert kinds == {
        "transformer_blocks.0.attn1": ("self", None),
        "transformer_blocks.0.attn2": ("cross", slice(0, 4)),
        "temporal_transformer_blocks.0.attn1": ("self", None),
    }
    kinds.clear()
    attached(kandinsky, watch)  # keys of the picture and of what is added to them
    assert {kind for kind, _ in kinds.values()} == {"unknown"}


def test_probabilities_of_cross_attention_are_recorded(latte):
    recorder = sdprobe.AttentionRecorder(rows=None)
    run, _ = attached(latte, recorder)
    assert run[recorder].indices == [0, 1, 2]
    probs = run[recorder]["transformer_blocks.0.attn2"]
    assert probs.shape == (STEPS, 4, 2, 16, 4)
    assert torch.allclose(probs.sum(-1), torch.ones(()))


def test_further_networks_have_the_name_of_their_part(two):
    names = {"mid_block.attentions.0": 2 * 2, "unet_2.mid_block.attentions.0": 2}
    run, _ = attached(two, sdprobe.on("attention", lambda attn: attn, modules="*mid_block.attentions.0"))
    assert run.coverage.seen == names
    acts = sdprobe.Activations(["mid_block", "unet_2.mid_block"])
    run, _ = attached(two, acts)
    assert [run[acts].at(i, "mid_block" if i < 2 else "unet_2.mid_block").shape[0] for i in range(3)] == [4, 4, 4]


def test_modules_beside_the_networks_are_named_by_their_part(kandinsky, latte):
    for unknown, name in ((kandinsky, "movq.decoder.conv_in"), (latte, "text_encoder.encoder.block.1")):
        kept = []
        module = unknown.pipe.components[name.split(".")[0]].get_submodule(name.partition(".")[2])
        handle = module.register_forward_hook(
            lambda module, args, output, kept=kept: kept.append(output[0] if isinstance(output, tuple) else output)
        )
        unknown()
        handle.remove()
        seen = []
        watch = sdprobe.watch(
            "activation", lambda x, site, seen=seen: seen.append((x, site)), modules=name, streams="hidden"
        )
        run, _ = attached(unknown, watch)
        assert len(kept) == len(seen) > 0
        for ours, theirs in zip(
            seen, kept if "movq" in name else [x[None] if x.ndim == 2 else x for x in kept], strict=True
        ):
            assert torch.equal(ours[0], theirs)
        assert {site.index for _, site in seen} == {None}
        assert run.coverage.seen[f"{name} (output)"] == 1


def test_a_module_that_there_is_not_is_refused_with_the_choices(two):
    with pytest.raises(ValueError, match=r"'unet_3\.mid_block' matches no activation site.*unet_2\.mid_block"):
        attached(two, sdprobe.Activations("unet_3.mid_block"))
    with pytest.raises(ValueError, match=r"asks for attention of kind joint.*its kinds: cross, unknown"):
        attached(two, sdprobe.watch("attention", lambda x: None, kinds="joint"))
