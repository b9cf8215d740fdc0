"""`AttendAndExcite`: it is the paper's update, it lowers the neglect of words, and at scale 0 it is nothing."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionAttendAndExcitePipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sdprobe
from sdprobe import AttentionMaps, LossGuidance, ReplaceToken, WordNotInPrompt, only
from sdprobe.shapes import detect
from sdprobe.testing import footprint
from sdprobe.transform.attend_and_excite import AttendAndExcite
from sdprobe.transform.attention_loss_guidance import AttentionGuidance, CrossAttention
from sdprobe.transform.layout_guidance import LayoutGuidance
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion

SCHEDULERS = ["DDIM", "EulerDiscrete", "LMSDiscrete", "HeunDiscrete", "PNDM", "DPMSolverMultistep", "UniPCMultistep"]
TWO = "a red circle and a blue square"
WORDS = ["circle", "square"]


def theirs(pipe):
    """Diffusers' pipeline on the same parts."""
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    return StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)


@given(seed=st.integers(0, 999), grid=st.sampled_from([2, 4, 8]), words=st.lists(st.integers(1, 14), min_size=1))
def test_the_loss_is_that_of_diffusers(tiny, seed, grid, words):
    scores = torch.randn(6, grid, grid, 16, generator=torch.Generator().manual_seed(seed))
    probs = (4 * scores).softmax(-1)
    most = StableDiffusionAttendAndExcitePipeline._compute_max_attention_per_index(probs.mean(0), words)
    expected = StableDiffusionAttendAndExcitePipeline._compute_loss(most)
    found = AttendAndExcite(words).loss(CrossAttention(tiny.read(TWO), (probs[:2], probs[2:])))
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("grid", [4, 8])
@pytest.mark.parametrize(("images", "guidance_scale"), [(1, 3.0), (2, 1.0)])
def test_a_run_is_that_of_diffusers(prediction_type, grid, images, guidance_scale):
    """Every update of a run, in every image: the same latents, to the rounding that adds up over the steps."""
    model = sdprobe.load(stable_diffusion(prediction_type))
    columns = [position for word in WORDS for position in model.read(TWO).positions(word)]
    made = {"num_inference_steps": 6, "max_iter_to_alter": 4, "thresholds": {}, "scale_factor": 20}
    expected = theirs(model.pipe)(
        TWO,
        columns,
        **made,
        num_images_per_prompt=images,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(1),
        attn_res=(grid, grid),
        output_type="latent",
    ).images
    settings = {"prompt": TWO, "steps": 6, "seed": 1, "images_per_prompt": images, "guidance_scale": guidance_scale}
    ours = run(model, AttendAndExcite(WORDS, thresholds={}, stop=4, grid=grid), **settings)
    torch.testing.assert_close(ours.latents, expected.detach(), rtol=1e-3, atol=1e-4)
    assert (run(model, **settings).latents - expected).abs().max() > 10 * (ours.latents - expected).abs().max()


def test_a_threshold_pushes_as_algorithm_1_says(tiny):
    """Again while the loss before the push was above 1 less the threshold, image by image."""
    given_ = {"prompt": TWO, "images_per_prompt": 2, "seed": [3, 4], "steps": 1}
    before = []
    for pushes in range(5):
        once, watching = AttendAndExcite(WORDS, 5, {0: 1.0}, repeats=max(pushes, 1), stop=1), AttendAndExcite(WORDS, 0)
        result = run(tiny, *([once] if pushes else []), watching, **given_)
        before.append(result[watching].losses[0])
        assert not pushes or result[once].pushes.tolist() == [[pushes, pushes]]
    target = float(torch.stack(before).flatten().median())
    reached = AttendAndExcite(WORDS, 5, {0: 1 - target}, repeats=5, stop=1)
    pushed = run(tiny, reached, **given_)[reached].pushes[0]
    for image in range(2):
        above = [bool(losses[image] > target) for losses in before]
        assert pushed[image] == (above.index(False) + 1 if False in above else 5)


@settings(max_examples=4)
@given(
    scheduler=st.sampled_from(SCHEDULERS),
    guidance_scale=st.sampled_from([1.0, 3.0]),
    seed=st.integers(0, 99),
    grid=st.sampled_from([None, 4, 8]),
)
@pytest.mark.parametrize("which", ["tiny", "tiny_v"])
def test_scale_0_is_the_identity(request, which, scheduler, guidance_scale, seed, grid):
    model = request.getfixturevalue(which)
    given_ = {"scheduler": scheduler, "guidance_scale": guidance_scale, "seed": seed, "steps": 4, "prompt": TWO}
    watching = AttendAndExcite(WORDS, 0, grid=grid)
    watched = run(model, watching, **given_)
    assert same_run(watched, run(model, **given_))
    assert watched[watching].losses.shape == (len(watched[watching].indices), 1)
    assert watched[watching].losses.min() > 0
    assert not watched[watching].changes.any()


@settings(max_examples=4)
@given(seed=st.integers(0, 999), scheduler=st.sampled_from(["DDIM", "EulerDiscrete"]))
def test_a_push_lowers_the_loss(embedded, seed, scheduler):
    """The loss of the second look is that after the first push: lower on average over images, and in most of them."""
    settings_ = {"prompt": TWO, "images_per_prompt": 6, "seed": [seed + k for k in range(6)], "scheduler": scheduler}
    pushed = AttendAndExcite(WORDS, 5, {}, stop=1)
    watching = AttendAndExcite(WORDS, 0, {}, stop=1)
    result = run(embedded, pushed, watching, steps=1, **settings_)
    before, after = result[pushed].losses[0], result[watching].losses[0]
    assert after.mean() < before.mean()
    assert (after < before).float().mean() > 0.5


@pytest.mark.slow
def test_more_pictures_hold_both_things(embedded):
    """Of this prompt the model draws one thing only, as a rule. The seeds are others than the prompt was chosen on."""
    prompt, asked = "a large yellow star in the middle with a purple ring", {"yellow", "purple"}
    settings_ = {"prompt": prompt, "steps": 10, "seed": list(range(100, 116)), "images_per_prompt": 16}

    def rate(*hooks):
        made = run(embedded, *hooks, **settings_)
        return np.mean([asked <= {found.colour for found in detect(np.asarray(own))} for own in made.images])

    assert rate(AttendAndExcite(["star", "ring"], scale=10, thresholds={})) >= rate() + 0.25


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["EulerDiscrete", "HeunDiscrete", "LMSDiscrete"])
@pytest.mark.parametrize("hook", [AttendAndExcite(WORDS, 20, {}), LayoutGuidance({"circle": (0, 0, 0.5, 1)}, 20)])
def test_a_push_means_the_same_under_every_scheduler(hook, kind, prediction_type):
    """At one noise level, from the same latents: what the denoiser is shown moves by the same."""
    model = sdprobe.load(stable_diffusion(prediction_type))
    unit = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    moves = []
    for name in ("DDIM", kind):
        scheduler = getattr(diffusers, f"{name}Scheduler")
        made = scheduler.from_config(model.pipe.scheduler.config, timestep_spacing="trailing")
        shown = []

        class Shown(sdprobe.Transform):
            kept = shown

            def latents(self, x, step):
                self.kept.append((step.timestep, x / math.hypot(step.signal, step.noise)))
                return x

        # The same clean latents, noised by each to one level in its own scale.
        given_ = {"image": unit, "seed": 0, "prompt": TWO, "steps": 4, "start_step": 2, "scheduler": made}
        run(model, Shown(), hook, Shown(), **given_)
        (timestep, before), (_, after) = shown[:2]
        moves.append((timestep, before, after - before))
    assert moves[0][0] == moves[1][0]
    torch.testing.assert_close(moves[0][1], moves[1][1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moves[0][2], moves[1][2], rtol=1e-2, atol=float(1e-3 * moves[0][2].abs().max()))
    assert moves[0][2].any()


def test_images_of_a_batch_are_pushed_each_by_itself(tiny):
    texts = [TWO, "a square left of a circle"]
    together = run(tiny, AttendAndExcite(WORDS), prompt=texts, seed=[1, 2])
    apart = [run(tiny, AttendAndExcite(WORDS), prompt=text, seed=k) for text, k in zip(texts, (1, 2), strict=True)]
    torch.testing.assert_close(together.latents, torch.cat([own.latents for own in apart]), rtol=1e-3, atol=1e-3)


def test_a_prompt_without_the_words_is_left_alone(tiny):
    excite = AttendAndExcite(WORDS)
    texts = [TWO, "a star"]
    excited, plain = (run(tiny, *hooks, prompt=texts, seed=[1, 2]) for hooks in ([excite], []))
    assert torch.equal(excited.latents[1], plain.latents[1])
    assert not torch.equal(excited.latents[0], plain.latents[0])
    assert torch.equal(excited[excite].changes > 0, torch.tensor([[True, False]]))


def test_words_of_several_tokens_and_words_that_occur_twice(tiny):
    prompt = tiny.read("a checkered circle and a red circle")
    probs = torch.rand(2, 4, 4, 16, generator=torch.Generator().manual_seed(0)).softmax(-1)
    looks = CrossAttention(prompt, (probs,))

    def loss(*words):
        return AttendAndExcite(words).loss(looks)

    checkered, (first, second) = prompt.positions("checkered"), prompt.words["circle"]
    assert len(checkered) == 2
    each = (100 * probs.mean(0)[..., 1:-1]).softmax(-1)[..., [p - 1 for p in checkered]]
    assert loss("checkered") <= min(loss(position) for position in checkered)
    assert loss("checkered") <= 1 - each.sum(-1).mean()  # a Gaussian's mean lies below its greatest
    assert loss("circle") == max(loss(first[0]), loss(second[0]))
    assert loss(("circle", 0)) == loss(first[0])
    assert loss(("circle", 1)) == loss(("circle", -1)) == loss(second[0])
    assert loss("circle", "checkered") == max(loss("circle"), loss("checkered"))


def test_it_composes(tiny):
    """The maps show the pushed latents; a swapped word is looked at as swapped; limits hold."""
    maps, excite = AttentionMaps(), AttendAndExcite(WORDS, thresholds={}, stop=4)
    both = run(tiny, maps, excite, prompt=TWO, steps=4)
    assert same_run(both, run(tiny, excite, prompt=TWO, steps=4))
    assert set(both.coverage.seen.values()) == {4}
    assert not both[maps].heat_map("circle").values.requires_grad
    swapped = run(tiny, ReplaceToken("square", with_="star"), excite, prompt=TWO, steps=4)
    written = AttendAndExcite(["circle", "star"], thresholds={}, stop=4)
    assert same_run(swapped, run(tiny, written, prompt="a red circle and a blue star", steps=4))
    late = only(AttendAndExcite(WORDS, stop=4), steps={2})
    limited = run(tiny, late, prompt=TWO, steps=4)
    assert limited[late.inner].indices == [2]
    assert not same_run(limited, run(tiny, prompt=TWO, steps=4))


def test_within_a_limited_swap_the_gradient_is_that_of_the_swap(tiny):
    swap = only(ReplaceToken("square", with_="star"), sites="*")
    limited, whole = (AttendAndExcite(WORDS, thresholds={}) for _ in range(2))
    by_sites = run(tiny, swap, limited, prompt=TWO)[limited].losses
    by_text = run(tiny, ReplaceToken("square", with_="star"), whole, prompt=TWO)[whole].losses
    torch.testing.assert_close(by_sites, by_text, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [True, False])
def test_beside_a_guidance_that_checkpoints_the_denoiser(tiny, first):
    def blue(pictures):
        return (pictures[:, 2] - 0.9).abs().mean((1, 2))

    runs = []
    for checkpoint in (True, False):
        hooks = [AttendAndExcite(WORDS), LossGuidance(blue, 5, through="model", checkpoint=checkpoint)]
        runs.append(run(tiny, *hooks[:: 1 if first else -1], prompt=TWO, steps=3).latents)
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-5)


def test_from_a_picture(tiny):
    picture = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    given_ = {"image": picture, "strength": 0.5, "steps": 8, "prompt": TWO}
    excite = AttendAndExcite(WORDS)
    excited = run(tiny, excite, **given_)
    assert excited[excite].indices == [0, 1]
    assert not same_run(excited, run(tiny, **given_))


def test_what_cannot_be_is_refused_before_the_first_step(tiny):
    steps = []
    watcher = type("Watch", (sdprobe.Observer,), {"latents": lambda self, x, step: steps.append(step.index)})()
    with pytest.raises(WordNotInPrompt, match=r"'hexagon' is not in the prompt .* its words are 'a', 'red', 'circle'"):
        run(tiny, watcher, AttendAndExcite(["circle", "hexagon"]))
    with pytest.raises(WordNotInPrompt, match="'circle' occurs 1 times"):
        run(tiny, watcher, AttendAndExcite([("circle", 1)]))
    with pytest.raises(ValueError, match=r"no site can have a grid of \[\(5, 5\)\]; .* \[\(8, 8\), \(4, 4\)"):
        run(tiny, watcher, AttendAndExcite(["circle"], grid=5))
    with pytest.raises(ValueError, match="at least 2×2, not 1"):
        AttendAndExcite(["circle"], grid=1)
    with pytest.raises(ValueError, match="at least one word"):
        AttendAndExcite([])
    assert steps == []
    with pytest.raises(ValueError, match=r"no cross-attention has a grid of \[\(2, 2\)\]; .*\[\(4, 4\), \(8, 8\)\]"):
        run(tiny, AttendAndExcite(["circle"], grid=2))


def test_a_gradient_that_is_no_number_stops(tiny):
    class Broken(AttentionGuidance):
        def loss(self, looks):
            return looks.mean().sum() / 0

    with pytest.raises(FloatingPointError, match=r"at step 0 of 2, the gradient in Broken\(.*image 0"):
        run(tiny, Broken(["circle"], 1.0))


def test_the_model_stays_as_it_was(tiny):
    class Failing(AttendAndExcite):
        def loss(self, looks):
            raise ZeroDivisionError

    tiny.pipe.unet.train()
    tiny.pipe.vae.decoder.requires_grad_(False)
    before = footprint(tiny.pipe)
    try:
        run(tiny, AttendAndExcite(["circle"]))
        assert footprint(tiny.pipe) == before
        with pytest.raises(ZeroDivisionError):
            run(tiny, Failing(["circle"]))
        assert footprint(tiny.pipe) == before
    finally:
        tiny.pipe.unet.eval()
        tiny.pipe.vae.decoder.requires_grad_(True)


@pytest.mark.parametrize("position", [0, 15, -1])
def test_the_first_token_and_the_last_have_no_map(tiny, position):
    with pytest.raises(ValueError, match="leaves out the first token and the last, so a position is 1 to 14"):
        run(tiny, sdprobe.AttendAndExcite([position], repeats=1))
