"""Another prompt at some sites: at all sites and steps it is the other prompt."""

import pickle

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe.experiments.context_sweep import ContextSweep, context_sweep
from sdprobe.experiments.description import describe, fingerprint
from sdprobe.experiments.effect_matrix import WHOLE
from sdprobe.experiments.parts_of_model import attention_of, cross_attention_of
from sdprobe.experiments.sampler import attached
from sdprobe.shapes import detect
from tests.configured import side_of
from tests.families import FAMILIES
from tests.test_patch_sweep import SWEEP, latents, mean

A, B = "a red circle", "a blue circle"


def test_at_all_sites_and_steps_it_is_all_of_b(tiny):
    sites = cross_attention_of(tiny)
    found = latents(tiny, ContextSweep(B, {"every": sites, "some": sites[:1]}, {"all": (0, 1), "late": (1,)}))
    torch.testing.assert_close(found["every, all"], found[WHOLE])  # which is a run by itself
    names = ("untouched", "some, all", "every, late", "every, all", "control, random vectors: every, all")
    assert all(not torch.allclose(found[a], found[b]) for a in names for b in names if a < b)


def test_of_the_same_prompt_it_changes_nothing(tiny):
    found = latents(tiny, ContextSweep(A, {"every": cross_attention_of(tiny)}, {"all": (0, 1)}))
    torch.testing.assert_close(found["every, all"], found["untouched"])


def test_the_sweep_of_a_model_has_every_site_and_all_together(tiny):
    found = context_sweep(tiny, A, B, mean, **{**SWEEP, "windows": [range(2)], "seeds": 0})
    assert not found.failed
    assert found.effect().rows == found.control().rows == (*cross_attention_of(tiny), "all sites")
    assert found.effect()["all sites", "all steps"].value == pytest.approx(1, abs=1e-4)


def test_sdxl_keeps_the_vector_of_the_whole_prompt():
    """At sites only the tokens are b's, so all sites together are not all of b there."""
    model = sdprobe.load(FAMILIES["Stable Diffusion XL"]())
    found = latents(model, ContextSweep(B, {"every": cross_attention_of(model)}, {"all": (0, 1)}))
    assert not torch.allclose(found["every, all"], found[WHOLE])
    assert not torch.allclose(found["every, all"], found["untouched"])


@pytest.mark.parametrize("family", ["Stable Diffusion 3", "Flux.1 dev", "Qwen-Image"])
def test_in_joint_attention_a_site_is_shown_the_text_of_a_run_of_b(family):
    model = sdprobe.load(FAMILIES[family]())
    sites = attention_of(model)
    given = {"every": sites, "first": sites[:1]}
    settings = {
        **SWEEP,
        "sites": given,
        "seeds": 0,
        "windows": [range(2)],
        "height": side_of(model),
        "width": side_of(model),
    }
    found = context_sweep(model, A, B, mean, **settings)
    assert not found.failed
    assert abs(found.effect()["first", "all steps"].value) > 0
    if family == "Qwen-Image":  # the others' denoisers get a vector of the whole prompt, which is a's
        assert found.effect()["every", "all steps"].value == pytest.approx(1, abs=1e-3)
    assert abs(found.control()["every", "all steps"].value - found.effect()["every", "all steps"].value) > 0.01


def test_where_a_mask_hides_the_padding_all_sites_see_as_many_tokens_as_b_has():
    settings = {**SWEEP, "sites": {"every": "*attn2"}, "seeds": 0, "windows": [range(2)], "height": 64, "width": 96}
    found = context_sweep(sdprobe.load(FAMILIES["Sana"]()), "a red circle left of a star", "a ring", mean, **settings)
    assert not found.failed
    assert found.effect()["every", "all steps"].value == pytest.approx(1, abs=1e-3)
    assert abs(found.control()["every", "all steps"].value - 1) > 0.01


def test_an_attached_pipeline_is_swept_too(tiny):
    settings = {**SWEEP, "sites": {"every": "*attn2"}, "seeds": 0, "windows": [range(2)]}
    found = context_sweep(attached(tiny.pipe), A, B, mean, **settings)
    assert not found.failed
    assert found.effect()["every", "all steps"].value == pytest.approx(1, abs=1e-4)


def blue(run):
    found = detect(np.asarray(run.images[0]))
    return bool(found) and found[0].colour == "blue"


@pytest.mark.slow
def test_the_last_site_reads_the_colour(embedded):
    """Of twelve seeds it turns eleven; here are some of these."""
    last = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
    sites = {"last": last, "all": "*attn2", "others": [name for name in cross_attention_of(embedded) if name != last]}
    settings = {"steps": 8, "guidance_scale": 5.0, "progress": False, "windows": [range(8), range(2), range(6, 8)]}
    found = context_sweep(embedded, A, B, blue, sites=sites, seeds=range(4), **settings).effect()
    assert found["last", "all steps"].value > 0.5
    assert found["all", "all steps"].value == found["all", "6–7"].value == 1
    assert found["all", "0–1"].value == 0


def test_the_design_can_be_sent_to_another_process_and_told_from_another():
    own, other = (ContextSweep(B, {"m": ("mid_block*",)}, {"all": own}) for own in ((0, 1), (0,)))
    assert pickle.loads(pickle.dumps(own)) == own
    assert fingerprint(describe(own)) != fingerprint(describe(other))
