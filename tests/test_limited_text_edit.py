"""Limited transforms of the text: told to the denoiser in steps and for rows, or shown to sites; every family."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import AttendAndExcite, Hooks, MixPrompts, ReplaceToken, attach, only
from sdprobe.core.hook import overrides
from tests.families import FAMILIES, stable_diffusion_3
from tests.laws.strategies import affine, run, same_run, seen
from tests.stock_pipelines import OTHERS, SMALL, STOCK, Stock, called

STEPS = 3
PROMPTS = ["a red circle", "a star and a circle"]
SETTINGS = {"prompt": PROMPTS, "steps": STEPS, "height": 16, "width": 16}
SHOWN = ["Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev", "PixArt-Σ"]
CROSS = ["Stable Diffusion 1", "Stable Diffusion XL", "PixArt-Σ"]
JOINT = ["Stable Diffusion 3.5", "Flux.1 dev"]
hooks = st.sampled_from(
    [
        ReplaceToken("circle", with_="star"),
        MixPrompts({"a star": 0.5, "a ring": 0.5}),
        affine("token_embeds", 0.5, 0.25),
        affine("prompt_embeds", 0.5, 0.25),
    ]
)


@pytest.fixture(scope="module")
def models():
    return {name: sdprobe.load(FAMILIES[name]()) for name in SHOWN}


@pytest.mark.parametrize("family", SHOWN)
@given(hook=hooks | st.just(affine("pooled_embeds", 0.5, 0.25)), guidance=st.sampled_from([1.0, 3.0]))
def test_in_all_steps_and_for_all_rows_it_is_the_hook(models, family, hook, guidance):
    """What the denoiser is told besides the tokens' embeddings changes with them: the vector of the whole prompt."""
    model, settings = models[family], SETTINGS | {"guidance_scale": guidance, "images_per_prompt": 2, "steps": 2}
    whole = run(model, hook, **settings)
    assert same_run(run(model, only(hook, steps=range(STEPS)), **settings), whole)
    assert same_run(run(model, only(hook, rows=lambda row: True), **settings), whole)


class Begin(sdprobe.Transform):
    """Puts a step's latents in place."""

    def __init__(self, index, x):
        self.index, self.x = index, x

    def latents(self, x, step):
        return self.x if step.index == self.index else x


@pytest.mark.parametrize(
    "family", [pytest.param(own, marks=[pytest.mark.slow] * (own == "Stable Diffusion 3.5")) for own in SHOWN]
)
@given(hook=hooks, steps=st.sets(st.integers(0, STEPS - 1), min_size=1))
def test_each_step_is_that_of_the_whole_edit_or_of_none(models, family, hook, steps):
    latents, output = seen("latents"), seen("model_output")
    limited = run(models[family], only(hook, steps=steps), latents, output, **SETTINGS)
    for i in range(STEPS):
        begin = Begin(i, limited[latents].values[i])
        alone = run(models[family], begin, output, *([hook] if i in steps else []), **SETTINGS)
        assert torch.equal(alone[output].values[i], limited[output].values[i])


@pytest.mark.parametrize("family", SHOWN)
@pytest.mark.parametrize("image", [0, 1])
def test_of_two_pictures_one_is_changed(models, family, image):
    hook = ReplaceToken("circle", with_="star")
    plain, whole, part = (run(models[family], *stack, **SETTINGS) for stack in ([], [hook], [only(hook, rows=[image])]))
    assert torch.equal(part.latents[1 - image], plain.latents[1 - image])
    assert torch.equal(part.latents[image], whole.latents[image])
    assert not torch.equal(part.latents[image], plain.latents[image])


@pytest.mark.parametrize("family", SHOWN)
def test_attached_it_is_the_same(models, family):
    model = models[family]
    model.pipe.set_progress_bar_config(disable=True)
    binning = {"use_resolution_binning": False} if family.startswith("PixArt") else {}
    late = only(ReplaceToken("circle", with_="star"), steps={1}, rows="cond")
    sampled = run(model, late, **SETTINGS | {"prompt": PROMPTS[1]})
    with attach(model.pipe, late) as attached:
        model.pipe(
            PROMPTS[1],
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            height=16,
            width=16,
            generator=torch.Generator().manual_seed(0),
            **binning,
        )
    assert same_run(attached, sampled)
    assert not same_run(sampled, run(model, **SETTINGS | {"prompt": PROMPTS[1]}))


@pytest.mark.parametrize("family", CROSS)
@given(hook=hooks)
def test_shown_to_every_site_of_cross_attention(models, family, hook):
    """That is all there is; but SDXL's network is told a vector of the whole prompt besides, which no site shows."""
    shown, whole = (run(models[family], own) for own in (only(hook, sites="*"), hook))
    assert same_run(shown, whole) == (
        family != "Stable Diffusion XL" or not (overrides(hook, "token_embeds") or overrides(hook, "pooled_embeds"))
    )


class TextAndAttention(sdprobe.Transform):
    """Acts on the text, and on attention."""

    def prompt_embeds(self, x, text):
        return 2 * x

    def attention(self, attn, site):
        return attn


@pytest.mark.parametrize("family", JOINT)
@pytest.mark.parametrize("hook", [ReplaceToken("circle", with_="star"), TextAndAttention()])
def test_joint_attention_has_no_site_of_the_text_alone(models, family, hook):
    with pytest.raises(ValueError, match="cross-attention these are none"):
        run(models[family], only(hook, sites="*transformer_blocks.0*"))


def test_neither_has_self_attention(tiny):
    with pytest.raises(ValueError, match="cross-attention these are none"):
        run(tiny, only(ReplaceToken("circle", with_="star"), sites="*attn1*"))


@given(a=hooks, b=hooks, steps=st.sets(st.integers(0, STEPS - 1), min_size=1))
def test_what_acts_between_two_of_them_stays(tiny, a, b, steps):
    """A change of the attention stands on what the text has become, wherever the changes of the text are limited to."""
    between = affine("attention", 0.9, 0.25)
    apart = run(tiny, only(a, sites="*"), between, only(b, sites="*"), steps=STEPS)
    assert same_run(apart, run(tiny, a, b, between, steps=STEPS))
    some = run(tiny, only(a, sites="*", steps=steps), only(b, steps=steps), steps=STEPS)
    assert same_run(some, run(tiny, *only(Hooks(a, b), steps=steps), steps=STEPS))


def test_a_step_is_predicted_with_it_before_it_has_seen_the_step(tiny):
    """A hook that stands before it asks the denoiser at `latents`, where nothing has been made ready."""
    excite, swap = AttendAndExcite(["star"], repeats=1), ReplaceToken("circle", with_="star")
    late = run(tiny, excite, only(swap, steps=range(2)), prompt="a circle and a star")
    assert same_run(late, run(tiny, excite, swap, prompt="a circle and a star"))


@pytest.mark.parametrize("make", [*STOCK, *OTHERS])
@pytest.mark.parametrize("point", ["token_embeds", "prompt_embeds"])
def test_in_all_steps_of_a_stock_pipeline_it_is_the_hook(make, point):
    """All of the pipeline's networks are told, ControlNet too; and rows of the picture alone the negative prompt."""
    stock, hook = make(), affine(point, 0.5, 0.25)
    with attach(stock.pipe, hook) as whole:
        called(stock)
    with attach(stock.pipe, only(hook, steps=range(9))) as limited:
        called(stock)
    assert same_run(limited, whole)


def test_further_calls_of_a_pipeline_s_own_are_told_too():
    """SD3's skip-layer guidance asks once more, for the conditional rows."""
    stock, hook = Stock(stable_diffusion_3(dual=False), SMALL), affine("prompt_embeds", 0.5, 0.25)
    stock.pipe.set_progress_bar_config(disable=True)
    asked = {"skip_guidance_layers": [1], "skip_layer_guidance_stop": 1.0}
    runs = []
    for own in (hook, only(hook, steps=range(9)), ()):
        with attach(stock.pipe, own) as attached:
            called(stock, **asked)
        runs.append(attached)
    assert same_run(runs[0], runs[1])
    assert not same_run(runs[0], runs[2])
    assert "further calls of the denoiser" in str(runs[2].coverage)


def test_a_prompt_is_encoded_as_often_as_it_is_told_in_another_way(tiny):
    """However many are limited to the same sites: once for them all, beside once for the run, for each side."""
    calls = []
    handle = tiny.pipe.text_encoder.register_forward_hook(lambda *given: calls.append(given))
    try:
        run(tiny, *(only(affine("prompt_embeds", 0.9, shift), sites="mid_block.*") for shift in range(6)))
    finally:
        handle.remove()
    assert len(calls) == 2 * 2
