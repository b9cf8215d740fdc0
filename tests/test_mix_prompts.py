"""`MixPrompts`: linear in its weights where it acts; with weight 1 it is writing the other prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import MixPrompts, attach, only
from tests.families import FAMILIES
from tests.laws.strategies import affine, run, same_run, seen

texts = st.sampled_from(["a circle", "a star", "a red ring above a star", ""])
weights = st.floats(-2, 2, allow_nan=False, width=16)


def embeds(tiny, *hooks, **settings):
    looking = seen("prompt_embeds")
    return run(tiny, *hooks, looking, steps=1, **settings)[looking].values


@given(text=texts, count=st.integers(1, 3))
def test_weight_one_is_writing_the_other_prompt(tiny, text, count):
    mixed = run(tiny, MixPrompts({text: 1.0}), prompt=["a red circle"] * count)
    assert same_run(mixed, run(tiny, prompt=[text] * count))


@given(a=texts, b=texts, v=weights, w=weights)
def test_linear_in_the_weights(tiny, a, b, v, w):
    if a == b:
        return
    whole = embeds(tiny, MixPrompts({a: v, b: w}))[1]
    parts = v * embeds(tiny, prompt=a)[1] + w * embeds(tiny, prompt=b)[1]
    assert torch.allclose(whole, parts, atol=1e-5)


@given(text=texts)
def test_each_side_has_its_own(tiny, text):
    uncond, cond = embeds(tiny, MixPrompts({text: 1.0}, role="uncond"))
    assert torch.equal(uncond, embeds(tiny, negative_prompt=text)[0])
    assert torch.equal(cond, embeds(tiny)[1])


POOLING = ["Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev"]
OTHER = "a green star"


@pytest.fixture(scope="module")
def pooling():
    """The families whose denoiser is told a vector of the whole prompt besides its tokens."""
    return {name: sdprobe.load(FAMILIES[name]()) for name in POOLING}


@pytest.mark.parametrize("prompt", ["a red circle", ["a red circle", "a star"]])
@pytest.mark.parametrize("family", POOLING)
def test_weight_one_is_writing_the_other_prompt_in_families_with_a_vector_of_the_whole(pooling, family, prompt):
    model, mix, texts = pooling[family], MixPrompts({OTHER: 1.0}), OTHER if isinstance(prompt, str) else [OTHER] * 2
    small = {"height": 16, "width": 16}
    written = run(model, prompt=texts, **small)
    for hook in (mix, only(mix, steps=range(2)), only(mix, rows="cond")):
        assert same_run(run(model, hook, prompt=prompt, **small), written)
        with attach(model.pipe, hook) as attached:
            generator = torch.Generator().manual_seed(0)
            model.pipe(prompt, num_inference_steps=2, guidance_scale=3.0, generator=generator, **small)
        assert torch.equal(attached.latents, written.latents)


@pytest.mark.parametrize("family", POOLING)
def test_in_some_steps_the_vector_of_the_whole_prompt_changes_with_the_tokens(pooling, family):
    model, settings = pooling[family], {"height": 16, "width": 16, "prompt": "a red circle"}
    half = run(model, only(MixPrompts({OTHER: 1.0}), steps={1}), **settings)
    kept = run(model, sdprobe.Checkpoints(), **settings)
    assert torch.equal(half.latents, sdprobe.resume(kept, step=1, prompt=OTHER, progress=False).latents)


@pytest.mark.parametrize("family", POOLING)
def test_linear_in_the_weights_of_the_vector_too(pooling, family):
    model, look = pooling[family], seen("pooled_embeds")

    def pooled(*hooks, prompt="a red circle"):
        return run(model, *hooks, look, prompt=prompt, height=16, width=16, steps=1)[look].values[-1]

    mixed = pooled(MixPrompts({"a star": 0.25, OTHER: -0.5}))
    assert torch.equal(mixed, 0.25 * pooled(prompt="a star") - 0.5 * pooled(prompt=OTHER))
    assert torch.equal(pooled(sdprobe.ScalePrompt(0.5)), 0.5 * pooled())
    assert not pooled(sdprobe.ScalePrompt(0.0)).any()
    shaken = pooled(sdprobe.NoisePrompt(0.5))
    assert not torch.equal(shaken, pooled())
    assert torch.equal(pooled(sdprobe.NoisePrompt(0.0)), pooled())


def test_what_a_text_says_at_the_vector_of_the_whole_prompt(pooling):
    told = {}

    class Ask(sdprobe.Transform):
        def pooled_embeds(self, x, text):
            told[text.role] = (text.encoder, text.prompts, text.encode([OTHER]).shape)
            for question in (lambda: text.lookup("circle"), text.layers):
                with pytest.raises(ValueError, match="one vector of the whole prompt"):
                    question()
            return x

    result = run(pooling["Stable Diffusion 3.5"], Ask(), prompt="a star", height=16, width=16)
    assert set(told) == {"cond", "uncond"}
    assert told["cond"] == ("text_encoder+text_encoder_2", result.prompts, (1, 32))


def test_sites_cannot_limit_a_change_of_the_vector_alone():
    with pytest.raises(ValueError, match="acts at pooled_embeds, which no site has"):
        only(affine("pooled_embeds", 0.5, 0.25), sites="*")


def test_an_empty_mixture_is_refused():
    with pytest.raises(ValueError, match="at least one text"):
        MixPrompts({})
