"""Patching from run to run: into itself it changes nothing, and where everything passes it is the other run."""

import pickle

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.description import describe, fingerprint
from sdprobe.experiments.effect_matrix import WHOLE
from sdprobe.experiments.given_pictures import given_pictures
from sdprobe.experiments.patch_sweep import PatchSweep, patch_sweep
from sdprobe.experiments.sampler import attached, sampler_of
from sdprobe.shapes import detect
from tests.families import FAMILIES

SETTINGS = {"steps": 2, "guidance_scale": 5.0}
SWEEP = {**SETTINGS, "seeds": range(2), "progress": False, "windows": [range(2), 1]}


def mean(run):
    return run.latents.mean()


def latents(model, sweep, prompt="a red circle"):
    """The final latents of each condition, and of none, in one batch, and of the run of b if the sweep has one."""
    runner = CaseRunner(sampler_of(model), Case(prompt, seed=3), SETTINGS)
    made = sweep.conditions(runner.case, runner)
    whole, stacks = made.pop(WHOLE, None), {"untouched": ()}
    for name, own in made.items():
        stacks[name] = own.hooks() if callable(own.hooks) else own.hooks
    runs = runner.run_together(list(stacks.values()))
    found = {name: run.latents for name, run in zip(stacks, runs, strict=True)}
    return found if whole is None else {**found, WHOLE: runner.run(whole.hooks, prompt=whole.prompt).latents}


def test_a_run_patched_into_itself_stays_the_same(tiny):
    found = latents(tiny, PatchSweep("a red circle", {"m": ("mid_block",), "u": ("up_blocks.*",)}, {"all": (0, 1)}))
    # The record is of a run of one image, and matrices of other sizes are rounded otherwise.
    for name in (WHOLE, "m, all", "u, all"):
        torch.testing.assert_close(found[name], found["untouched"])
    assert not torch.allclose(found["control, random vectors: m, all"], found["untouched"])


def test_into_itself_to_the_last_bit_in_one_batch(tiny):
    runner = CaseRunner(sampler_of(tiny), Case("a red circle", seed=3), SETTINGS)
    kept = sdprobe.Activations("mid_block", rows="cond")
    first = runner.run_together([[kept], []])[0]
    patch = sdprobe.only(sdprobe.Patch(first[kept], "mid_block"), rows="cond")
    again, plain = runner.run_together([[patch], []])
    assert torch.equal(again.latents, plain.latents)


@pytest.mark.parametrize("family", ["Stable Diffusion XL", "Stable Diffusion 3", "Flux.1 dev"])
def test_what_leaves_the_network_is_all_of_b(family):
    model = sdprobe.load(FAMILIES[family]())
    last = "conv_out" if family.endswith("XL") else "proj_out"
    found = latents(model, PatchSweep("a blue circle", {"last": (last,)}, {"all": (0, 1)}))
    torch.testing.assert_close(found["last, all"], found[WHOLE], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[WHOLE], found["untouched"])


def test_the_matrix_of_a_model(tiny):
    found = patch_sweep(tiny, "a red circle", "a blue circle", mean, over=["conv_out", "mid_block"], **SWEEP)
    assert not found.failed
    assert found.effect().columns == found.control().columns == ("all steps", "1")
    assert found.effect()["conv_out", "all steps"].value == pytest.approx(1, abs=1e-3)
    assert abs(found.control()["conv_out", "all steps"].value - 1) > 0.01
    assert found.about == "activations of 'a blue circle'"


def test_each_condition_is_run_in_the_steps_of_its_window(tiny):
    sweep = PatchSweep("a blue circle", {"last": ("conv_out",)}, {"first": (0,), "second": (1,), "both": (0, 1)})
    found = latents(tiny, sweep)
    names = ("untouched", "last, first", "last, second", "last, both")
    assert all(not torch.allclose(found[a], found[b]) for a in names for b in names if a < b)


def test_a_case_fills_in_its_own_word(tiny):
    cases = [
        Case("a red circle", seed=1, words={"other": "blue"}),
        Case("a red star", seed=1, words={"other": "green"}),
    ]
    settings = {**SETTINGS, "progress": False, "over": "conv_out", "windows": [range(2)]}
    found = patch_sweep(tiny, cases, "a {other} circle", mean, **settings)
    assert not found.failed
    for k, other in enumerate(["a blue circle", "a green circle"]):
        alone = sdprobe.sample(tiny, other, seed=1, progress=False, **SETTINGS)
        assert found.values(WHOLE, "mean")[k] == pytest.approx(float(alone.latents.mean()), rel=1e-4)


LENGTHS = {"Sana": {"height": 64, "width": 96}, "LTX-Video": {"frames": 5, "height": 32, "width": 64}}


@pytest.mark.parametrize("family", LENGTHS)
def test_all_of_b_sees_the_tokens_of_b_where_a_mask_hides_the_padding(family):
    """There a mask says which tokens a has, and b has others."""
    model, settings = sdprobe.load(FAMILIES[family]()), {**SETTINGS, "progress": False, **LENGTHS[family]}
    over = {"over": "proj_out", "windows": [range(2)], "seeds": 3}
    found = patch_sweep(model, "a red circle left of a star", "a ring", mean, **over, **settings)
    assert not found.failed
    alone = sdprobe.sample(model, "a ring", seed=3, **settings)
    assert found.values(WHOLE, "mean")[0] == float(alone.latents.mean())
    assert found.effect()["proj_out", "all steps"].value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("family", ["Qwen-Image", "Lumina 2"])
def test_texts_that_do_not_fit_each_other_are_refused_before_anything_runs(family):
    model = sdprobe.load(FAMILIES[family]())
    with pytest.raises(ValueError, match="Write prompts of the same number of tokens"):
        patch_sweep(model, "a red circle left of a star", "a ring", mean, **SWEEP)


def test_a_given_picture_has_one_noise_for_both_prompts(tiny):
    """It is inverted with its own prompt, also where it is sampled with another."""
    picture = sdprobe.sample(tiny, "a red circle", seed=0, progress=False, **SETTINGS).images[0]
    case, settings = Case("a red circle", image=picture), {"steps": 2, "guidance_scale": 3.0}
    runner = CaseRunner(given_pictures(tiny), case, settings)
    inverted = sdprobe.invert(tiny, [picture], ["a red circle"], steps=2, progress=False)
    edited = inverted.sample(prompt=["a blue circle"], guidance_scale=3.0, progress=False)
    assert torch.equal(runner.run(prompt="a blue circle").latents, edited.latents)


def test_the_control_may_be_of_another_seed(tiny):
    settings = {**SWEEP, "over": "mid_block", "windows": [range(2)], "seeds": 0}
    found = patch_sweep(tiny, "a red circle", "a blue circle", mean, control="another seed", **settings)
    assert not found.failed
    assert found.plot().axes[1].get_title() == "control:\na with another seed"
    other = patch_sweep(tiny, "a red circle", "a blue circle", mean, **settings)
    assert found.effect()["mid_block", "all steps"].value == other.effect()["mid_block", "all steps"].value
    assert found.control()["mid_block", "all steps"].value != other.control()["mid_block", "all steps"].value


def test_an_attached_pipeline_is_swept_too(tiny):
    settings = {**SWEEP, "over": "conv_out", "seeds": 0}
    found = patch_sweep(attached(tiny.pipe), "a red circle", "a blue circle", mean, **settings)
    assert not found.failed
    assert found.effect()["conv_out", "all steps"].value == pytest.approx(1, abs=1e-3)


def test_what_the_model_does_not_have_is_refused_before_anything_runs(tiny):
    with pytest.raises(ValueError, match="fits no module"):
        patch_sweep(tiny, "a red circle", "a blue circle", mean, over="mid_blok", **SWEEP)
    with pytest.raises(ValueError, match="no step 2"):
        patch_sweep(tiny, "a red circle", "a blue circle", mean, **{**SWEEP, "windows": [2]})


def blue(run):
    found = detect(np.asarray(run.images[0]))
    return bool(found) and found[0].colour == "blue"


@pytest.mark.slow
def test_the_last_block_with_attention_carries_the_colour(embedded):
    last = "up_blocks.2.attentions.1"
    settings = {"steps": 8, "guidance_scale": 5.0, "progress": False, "windows": [range(8)], "seeds": range(4)}
    found = patch_sweep(embedded, "a red circle", "a blue circle", blue, over=["mid_block", last], **settings)
    assert [found.effect()[own, "all steps"].value for own in ("mid_block", last)] == [0, 1]
    assert found.control().values.max() == 0


def test_the_design_can_be_sent_to_another_process_and_told_from_another():
    own, other = (PatchSweep(b, {"m": ("mid_block",)}, {"all": (0, 1)}) for b in ("a star", "a ring"))
    assert pickle.loads(pickle.dumps(own)) == own
    assert fingerprint(describe(own)) != fingerprint(describe(other))
