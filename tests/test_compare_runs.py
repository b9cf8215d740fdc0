"""Two runs part where a transform makes them part, at every step and point; and a run does not part from itself."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import sdprobe
from sdprobe import (
    Activations,
    AttentionMaps,
    Checkpoints,
    LatentRecorder,
    ReplaceToken,
    Statistics,
    compare,
    on,
    only,
    resume,
)
from sdprobe.testing.synthetic_hooks import affine
from tests.configured import IN_EVERY_FAMILY, feed_forward
from tests.families import ASKED, FAMILIES, OLDER
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

LATENTS = LatentRecorder(keep=("latents", "noise_pred", "denoised"))
MAPS = AttentionMaps(keep=("step", "layer"))
BLOCKS = Activations(IN_EVERY_FAMILY, rows="cond")
EVERYTHING = (LATENTS, MAPS, BLOCKS)
SITE = "up_blocks.0.attentions.1.transformer_blocks.0.attn2"
FF = "down_blocks.1.attentions.0.transformer_blocks.0.ff"
STEPS = 4


class Sharpen(sdprobe.Transform):
    """Attention of the square of its probabilities."""

    kinds = ("cross", "joint")

    def attention(self, attn, site):
        squared = attn.probs() ** 2
        return attn.with_probs(squared / squared.sum(-1, keepdim=True))


class Brighten(sdprobe.Transform):
    """A transform that can be pickled."""

    def latents(self, x, step):
        return 1.2 * x + 0.2


@pytest.fixture(scope="module")
def plain(tiny):
    return run(tiny, *EVERYTHING, Checkpoints(), steps=STEPS)


# A run and itself


HALF = [("Stable Diffusion 1", torch.float16), ("Stable Diffusion 3.5", torch.bfloat16)]


@pytest.mark.parametrize(("family", "dtype"), [*((family, torch.float32) for family in OLDER), *HALF])
def test_a_run_is_equal_to_itself_and_to_its_pickle(family, dtype):
    pipe = FAMILIES[family]()
    pipe.to(dtype)
    model = sdprobe.load(pipe)
    own = ASKED.get(family, {})
    everything = LATENTS, MAPS, Activations([feed_forward(model)], rows="cond"), Statistics()
    a = run(model, *everything, **own)
    for b in (a, pickle.loads(pickle.dumps(a)), run(model, *everything, **own)):
        found = compare(a, b)
        assert found.parting.outcome == "equal", found.parted
        assert found.settings == {}
        assert {own.distance for own in found.table} == {0.0}
        assert {own.cosine for own in found.table if own.cosine == own.cosine} == {1.0}
        quantities = {"latents", "noise_pred", "denoised", "attention", "activation", "final latents", "picture"}
        assert {own.quantity for own in found.table} == quantities
        assert found.notes == ()


def test_an_attached_run_is_equal_to_the_sampled_one(tiny):
    pipe = stable_diffusion()
    with sdprobe.attach(pipe, [LATENTS, MAPS]) as a:
        pipe(
            "a red circle",
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            generator=torch.Generator("cpu").manual_seed(0),
        )
    found = compare(a, run(tiny, LATENTS, MAPS, steps=STEPS))
    assert found.parted == (
        "equal to the last bit in all that both recorded: latents, attention, noise_pred, denoised, final latents, "
        "picture"
    )


# Where a transform makes them part

POINTS = ("latents", "model_output", "noise_pred", "sample")


@pytest.mark.parametrize("k", range(STEPS))
@pytest.mark.parametrize("point", POINTS)
def test_a_transform_of_a_step_parts_there(tiny, plain, point, k):
    b = run(tiny, only(affine(point, 1.1, 0.1), steps=[k]), *EVERYTHING, steps=STEPS)
    at = compare(plain, b).parting.at
    seen = {"latents": ("latents", k), "sample": ("latents", k + 1)}.get(point, ("noise_pred", k))
    if seen == ("latents", STEPS):  # after the last step
        seen = ("final latents", None)
    assert (at.quantity, at.step) == seen


@pytest.mark.parametrize("k", range(STEPS))
def test_attention_parts_at_its_site(tiny, plain, k):
    found = compare(plain, run(tiny, only(Sharpen(), steps=[k], sites=SITE), *EVERYTHING, steps=STEPS))
    assert (found.parting.at.quantity, found.parting.at.step, found.parting.at.site) == ("attention", k, SITE)
    assert found.parted.startswith(f"part at step {k}, at attention of {SITE} (distance ")
    assert found.parted.endswith("; before it they are equal to the last bit")


@pytest.mark.parametrize("k", range(STEPS))
def test_an_activation_parts_at_its_module(tiny, plain, k):
    found = compare(plain, run(tiny, only(affine("activation"), steps=[k], sites=FF), *EVERYTHING, steps=STEPS))
    assert found.parted.startswith(f"part at step {k}, at activation of {FF} (output, hidden) (distance ")


@pytest.mark.parametrize("k", range(STEPS))
def test_a_word_parts_at_the_first_site_that_reads_it(tiny, plain, k):
    found = compare(
        plain, run(tiny, only(ReplaceToken("red", "blue"), steps=[k], sites=SITE), *EVERYTHING, steps=STEPS)
    )
    assert (found.parting.at.quantity, found.parting.at.step, found.parting.at.site) == ("attention", k, SITE)
    assert "ReplaceToken('red', 'blue')" in found.settings["transforms"][1]


@pytest.mark.parametrize("point", ["final_latents", "image"])
def test_after_the_steps(tiny, plain, point):
    at = compare(plain, run(tiny, affine(point), *EVERYTHING, steps=STEPS)).parting.at
    assert at.quantity == {"final_latents": "final latents", "image": "picture"}[point]


@pytest.mark.parametrize("point", ["latents", "noise_pred"])
@pytest.mark.parametrize("k", range(STEPS))
def test_small_noise_is_rounding(tiny, plain, point, k):
    noise = torch.Generator().manual_seed(k)
    change = on(point, lambda x, step: x + 1e-7 * torch.randn(x.shape, generator=noise))
    found = compare(plain, run(tiny, only(change, steps=[k]), *EVERYTHING, steps=STEPS))
    assert found.parting.outcome == "rounding", found.parted
    assert found.parted.startswith("equal but for rounding (at most ")


def test_a_jump_after_rounding_is_found(tiny, plain):
    noise = torch.Generator().manual_seed(0)
    tremble = on("latents", lambda x, step: x + 1e-7 * torch.randn(x.shape, generator=noise))
    change = only(affine("noise_pred", 1.1, 0.1), steps=[2])
    found = compare(plain, run(tiny, tremble, change, *EVERYTHING, steps=STEPS))
    assert (found.parting.at.quantity, found.parting.at.step) == ("noise_pred", 2)
    assert "before it they are equal but for rounding (at most " in found.parted


def test_half_precision_has_its_own_rounding():
    pipe = stable_diffusion()
    pipe.to(torch.bfloat16)
    model = sdprobe.load(pipe)
    a, small, large = (
        run(model, *own, LATENTS) for own in ([], [affine("latents", 1 + 2**-7, 0.0)], [affine("latents", 1.3, 0.0)])
    )
    assert compare(a, small).table[0].verdict == "rounding"
    assert compare(a, large).parting.outcome == "parted"


# A restart


@pytest.mark.parametrize("k", range(STEPS))
def test_a_restart_with_another_prompt_parts_at_its_step(plain, k):
    b = resume(plain, k, hooks=EVERYTHING, prompt="a blue circle", progress=False)
    found = compare(plain, b)
    assert (found.parting.at.quantity, found.parting.at.step) == ("attention", k)
    assert found.parting.at.site.startswith("down_blocks.0")
    assert found.words[0] == (("a", "circle"), ("red",), ("blue",))
    assert {own.word for own in found.table if own.quantity == "attention"} == {"", "a", "circle"}
    assert found.settings["prompt"] == (("a red circle",), ("a blue circle",))
    assert ("resumed_at" in found.settings) == bool(k)
    left = f"step{'s' * (k > 1)} 0{f' to {k - 1}' * (k > 1)}"
    assert (f"latents: {left} recorded by a only" in found.notes) == bool(k)
    assert compare(plain, resume(plain, k, hooks=EVERYTHING, progress=False)).parting.outcome == "equal"


# Symmetry


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("k", [0, STEPS - 1])
def test_the_other_way_round(tiny, plain, point, k):
    b = run(tiny, only(affine(point, 1.2, 0.3), steps=[k]), *EVERYTHING, steps=STEPS)
    there, back = compare(plain, b), compare(b, plain)
    assert [own[:6] for own in there.table] == [own[:6] for own in back.table]
    assert there.parting.at[:6] == back.parting.at[:6]
    final = [float(own.latents.double().square().mean().sqrt()) for own in (plain, b)]
    for one, other in zip(there.table, back.table, strict=True):
        assert one.cosine == pytest.approx(other.cosine, nan_ok=True)
        assert one.verdict == other.verdict
        if one.quantity == "attention":
            assert one.distance == other.distance
        if one.quantity == "final latents":
            assert one.distance * final[0] == pytest.approx(other.distance * final[1])


# What the numbers are


def test_latents_are_at_the_distance_of_the_equation(tiny, plain):
    b = run(tiny, *EVERYTHING, steps=STEPS, seed=1)
    for own in compare(plain, b).table:
        if own.quantity in ("latents", "noise_pred", "denoised"):
            x, y = (result[LATENTS].at(own.step)[own.quantity].double() for result in (plain, b))
            assert own.distance == pytest.approx(float((y - x).square().mean().sqrt() / x.square().mean().sqrt()))
            assert own.cosine == pytest.approx(float(torch.cosine_similarity(x.flatten(), y.flatten(), 0)))


def test_attention_to_a_word_is_at_the_distance_of_its_heat_maps(tiny, plain):
    b = run(tiny, only(ReplaceToken("circle", "star"), steps=[1, 2]), *EVERYTHING, steps=STEPS)
    seen = 0
    for own in compare(plain, b).table:
        if own.quantity == "attention" and own.word:
            p, q = (result[MAPS].heat_map(own.word, step=own.step, layer=own.site).values for result in (plain, b))
            assert own.distance == pytest.approx(float((p - q).abs().sum() / (p + q).sum()), abs=1e-6)
            seen += own.distance > 0.001
    assert seen


# Rows, images, sizes, steps


def test_a_hook_of_some_rows_has_the_images_of_the_whole_run(tiny):
    settings = {"images_per_prompt": 3, "steps": 2}
    change = only(Brighten(), steps=[1], rows=[2])
    whole = run(tiny, *EVERYTHING, **settings)
    part = run(tiny, change, *(only(own, rows=[1, 2]) for own in EVERYTHING), **settings)
    for b in (part, pickle.loads(pickle.dumps(part)), copy.deepcopy(part)):
        found = compare(whole, b)
        assert {own.image for own in found.table if own.step is not None} == {1, 2}
        assert {own.quantity for own in found.table if own.step is not None} == {
            "latents",
            "noise_pred",
            "denoised",
            "attention",
            "activation",
        }
        assert found.parted.startswith("part at step 1, at latents in image 2 of 3 (distance ")
        assert found.parting_of(1).outcome == "equal"
        assert found.parting_of(2).at.step == 1


def test_prompts_of_several_images(tiny):
    a = run(tiny, *EVERYTHING, prompt=["a red circle", "a star"])
    b = run(tiny, *EVERYTHING, prompt=["a red circle", "a ring"])
    found = compare(a, b)
    assert found.words[1] == (("a",), ("star",), ("ring",))
    assert found.parting_of(0).outcome in ("equal", "rounding")
    assert found.parting_of(1).at.quantity == "attention"


def test_fewer_images(tiny):
    found = compare(run(tiny, LATENTS, images_per_prompt=3), run(tiny, LATENTS))
    assert "images 1 to 2 of a left out: the other run has only 1" in found.notes
    assert {own.image for own in found.table} == {0}


def test_other_sizes_are_shown_and_not_subtracted(tiny):
    found = compare(run(tiny, *EVERYTHING), run(tiny, *EVERYTHING, height=24))
    assert found.settings["height"] == (16, 24)
    assert found.difference() is None
    assert any(note.startswith("pictures: of other sizes, 16×16 and 24×16") for note in found.notes)
    assert any(note.startswith("latents: of other sizes") for note in found.notes)
    assert found.figure().axes[2].texts[0].get_text() == "not subtracted"
    assert found.parted == "nothing could be compared"


def test_other_numbers_of_steps_are_not_compared_by_step(tiny):
    found = compare(run(tiny, *EVERYTHING, steps=3), run(tiny, *EVERYTHING, steps=4))
    assert any(note.startswith("steps left out: a calls the denoiser 3 times and b 4 times") for note in found.notes)
    assert {own.quantity for own in found.table} == {"final latents", "picture"}
    assert repr(found).startswith("Comparison(nothing but final latents and pictures was compared: part ")


def test_a_scheduler_of_two_calls_a_step_is_not_compared_by_step(tiny):
    found = compare(run(tiny, LATENTS, steps=3), run(tiny, LATENTS, steps=3, scheduler="Heun"))
    assert any(note.startswith("steps left out: a calls the denoiser 3 times and b 5 times") for note in found.notes)


def test_other_schedulers_are_compared_by_number_and_this_is_said(tiny):
    found = compare(run(tiny, LATENTS), run(tiny, LATENTS, scheduler="DPMSolverMultistep"))
    assert any("the schedulers differ" in note for note in found.notes)
    assert {own.step for own in found.table if own.quantity == "latents"} == {0, 1}


# What was recorded by one only


def test_what_was_not_recorded_is_said_with_how_to(tiny):
    bare = run(tiny)
    assert [note.partition(";")[0] for note in compare(bare, bare).notes] == [
        "latents: recorded by neither",
        "noise: recorded by neither",
        "predicted x0: recorded by neither",
        "attention: recorded by neither",
        "activations: recorded by neither",
    ]
    notes = compare(run(tiny, LatentRecorder(), AttentionMaps()), run(tiny, *EVERYTHING)).notes
    assert "noise: recorded by b only; record both runs with LatentRecorder(" in "\n".join(notes)
    assert "attention: steps not kept apart by both" in "\n".join(notes)
    assert not any(note.startswith("latents") for note in notes)


def test_sums_over_the_steps_are_compared_where_they_are_of_as_many_calls(tiny):
    maps = AttentionMaps()
    a, b = run(tiny, maps, MAPS, Checkpoints(), steps=3), run(tiny, only(Sharpen(), sites=SITE), maps, steps=3)
    found = compare(a, b)
    values = [own for own in found.table if own.quantity == "attention"]
    assert {own.step for own in values} == {None}
    at = found.parting.at
    assert (at.quantity, at.step) == ("attention", None)
    assert "in the sums over all steps" in found.parted
    late = compare(a, resume(a, 1, hooks=[maps], progress=False))
    assert any("summed over 3 calls in a and 2 in b" in note for note in late.notes)


def test_statistics_alone(tiny):
    a, b = (run(tiny, *own, Statistics(), steps=3) for own in ([], [only(affine("noise_pred"), steps=[1])]))
    found = compare(a, b)
    assert found.parted.startswith("part at step 1, at noise_pred (statistics) (distance ")
    assert any(note.startswith("latents: compared by their statistics alone") for note in found.notes)
    values = compare(*(run(tiny, *own, LATENTS, steps=3) for own in ([], [only(affine("noise_pred"), steps=[1])])))
    whole = {(own.quantity, own.step): own.distance for own in values.table}
    for own in found.table:
        if own.step is not None:
            assert own.distance <= whole[own.quantity.removesuffix(" (statistics)"), own.step] * (1 + 1e-4) + 1e-6


def test_recordings_on_disk_and_of_some_steps(tiny, tmp_path):
    a = run(tiny, LatentRecorder(every=2, folder=tmp_path), steps=STEPS)
    b = run(tiny, LatentRecorder(), LatentRecorder(steps=[0], keep=("noise_pred",)), steps=STEPS)
    found = compare(a, b)
    assert [own.step for own in found.table if own.quantity == "latents"] == [0, 2]
    assert "latents: steps 1, 3 recorded by b only" in found.notes


def test_the_text_encoder_comes_first(tiny):
    acts = Activations(["text_encoder.*"], reduce="mean", rows="cond")
    found = compare(run(tiny, acts, LATENTS), run(tiny, acts, LATENTS, prompt="a blue circle"))
    assert found.parted.startswith("part outside the steps, at activation of text_encoder.")


def test_activations_that_were_otherwise_reduced_are_not_compared(tiny):
    found = compare(*(run(tiny, Activations("mid_block", reduce=own)) for own in ("mean", "max")))
    assert "activation" not in {own.quantity for own in found.table}
    assert any(note.startswith("activation of mid_block (output, hidden): recorded by a only") for note in found.notes)


def test_no_run(plain):
    with pytest.raises(TypeError, match="compare takes two runs"):
        compare(plain, plain.images[0])


def test_steps_are_those_of_the_denoiser_whatever_recorded_them(tiny):
    """A scheduler of the second order calls the denoiser twice in most steps, which attention alone shows as well."""
    a, b = (run(tiny, MAPS, *more, steps=STEPS, scheduler="HeunDiscrete") for more in ((), (LATENTS,)))
    found = compare(a, b)
    assert not [note for note in found.notes if "steps left out" in note]
    assert {own.step for own in found.table if own.quantity == "attention"} == {*range(2 * STEPS - 1)}


def test_runs_that_began_from_a_picture_at_other_steps(tiny):
    picture = run(tiny).images[0]

    def begun(steps, strength):
        return run(tiny, LATENTS, steps=steps, image=picture, strength=strength)

    found = compare(begun(4, 0.5), begun(4, 0.75))
    assert "steps left out: a calls the denoiser 2 times and b 3 times" in " ".join(found.notes)
    assert {own.step for own in found.table} == {None}
    found = compare(begun(4, 0.5), begun(8, 0.25))
    assert "the runs began at other steps of their schedulers" in " ".join(found.notes)
    assert {own.step for own in found.table} == {0, 1, None}


def test_what_both_recorded_of_other_images_or_words_is_said(tiny):
    def recorded(image, word):
        hooks = only(LATENTS, rows=lambda row: row.image == image), AttentionMaps([word], keep=("step", "layer"))
        return run(tiny, *hooks, prompt=["a red circle", "a red star"])

    notes = " ".join(compare(recorded(0, "a"), recorded(1, "red")).notes)
    assert "latents: recorded by both, but of other steps or images" in notes
    assert "attention: recorded by both, but of other images or words" in notes
