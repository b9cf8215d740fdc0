"""Ablating heads: all of a module's are what goes into its last layer; a head that does nothing is told."""

import pickle

import pytest
import torch

import sdprobe
from sdprobe.experiments.case import Case
from sdprobe.experiments.description import describe, fingerprint
from sdprobe.experiments.head_ablation import HeadAblation, head_ablation
from sdprobe.experiments.heads_of_model import ablate, heads_of
from tests.test_patch_sweep import SETTINGS, latents, mean
from tests.tiny import stable_diffusion

QUICK = {**SETTINGS, "progress": False, "seeds": range(2)}


def test_each_head_has_a_cell_and_a_control(tiny):
    found = head_ablation(tiny, "a red circle", mean, modules="mid_block*", **QUICK)
    assert not found.failed
    assert found.effect().values.shape == found.control().values.shape == (1, 2)
    assert found.effect().columns == ("0", "1")


def test_a_head_that_gives_nothing_is_told():
    model = sdprobe.load(stable_diffusion())
    (name,) = {head.module for head in heads_of(model, "mid_block*")}
    layer = model.modules[f"{name}.to_out.0"]
    width = layer.in_features // 2
    with torch.no_grad():
        layer.weight[:, :width] = 0
    found = head_ablation(model, "a red circle", mean, modules=name, **QUICK).effect()
    assert found.did_nothing((name, "0"))
    assert not found.did_nothing((name, "1"))


def test_controls_are_as_many_heads_of_other_modules(tiny):
    pool = heads_of(tiny)
    sweep = HeadAblation({("one", "0"): pool[:1], ("most", "together"): pool[:8]}, pool)
    others = sweep.others(pool[:1], seed=0)
    assert len(others) == 1
    assert others[0].module != pool[0].module
    assert others == sweep.others(pool[:1], seed=0)
    assert {own for k in range(20) for own in sweep.others(pool[:1], seed=k)} != set(others)
    with pytest.raises(ValueError, match=r"as many others, and of 14 there are 6"):
        sweep.others(pool[:8], seed=0)
    assert set(sweep.others(pool[:7], seed=0)).isdisjoint(pool[:7])


def test_several_heads_are_ablated_together(tiny):
    a, b, *_ = pool = heads_of(tiny)
    found = latents(tiny, HeadAblation({("both", "together"): (a, b)}, pool))
    settings = {**SETTINGS, "seed": 3, "progress": False}
    alone = sdprobe.sample(tiny, "a red circle", hooks=ablate([a, b]), **settings)
    torch.testing.assert_close(found["both, together"], alone.latents)


def test_heads_and_modules_that_there_are_not_are_refused(tiny):
    with pytest.raises(ValueError, match=r"no head 2 of 'mid_block.*attn2'; there are .*\(2 heads\)"):
        head_ablation(tiny, "a", mean, sets={"x": [(heads_of(tiny, "mid_block*")[0].module, 2)]}, **QUICK)
    with pytest.raises(ValueError, match="at least one"):
        head_ablation(tiny, "a", mean, sets={"x": []}, **QUICK)
    with pytest.raises(ValueError, match="fits no attention that reads the text"):
        head_ablation(tiny, Case("a"), mean, modules="*attn1", **QUICK)


def test_the_design_can_be_sent_to_another_process_and_told_from_another(tiny):
    own, other = (HeadAblation({("one", "0"): heads_of(tiny)[:k]}, heads_of(tiny)) for k in (1, 2))
    assert pickle.loads(pickle.dumps(own)) == own
    assert fingerprint(describe(own)) != fingerprint(describe(other))
