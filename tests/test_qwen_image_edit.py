"""Qwen-Image-Edit: its pictures' tokens come before the prompt's, and their places after those of the picture made."""

from __future__ import annotations

import pytest
import torch
from diffusers import QwenImageEditPipeline

import sdprobe
from sdprobe.stock_pipelines.pipeline_listener import attachable
from tests.later_stock_pipelines import qwen_edit, qwen_edit_inpainting, qwen_edit_of_several
from tests.planted import latents_for
from tests.planted_families import Marked, planted
from tests.stock_pipelines import Stock, attached, picture
from tests.tiny_models.qwen_image import qwen_image

STEPS = {"num_inference_steps": 2}


def encoded(stock, **given):
    """What the language model is given in each call, and the run."""
    seen = []

    def hook(module, args, kwargs):
        rows = zip(kwargs["input_ids"], kwargs["attention_mask"].bool(), strict=True)
        seen.append([ids[kept].tolist() for ids, kept in rows])

    handle = stock.pipe.text_encoder.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        return attached(Stock(stock.pipe, {**stock.given, **STEPS}), **given), seen
    finally:
        handle.remove()


@pytest.mark.parametrize("make", [qwen_edit, qwen_edit_inpainting, qwen_edit_of_several])
def test_tokens_are_those_that_the_language_model_reads_after_the_first(make):
    stock = make()
    run, (own, negative) = encoded(stock)
    first = stock.pipe.prompt_template_encode_start_idx
    assert own[0][first:] == list(run.prompts[0].ids)
    assert negative[0][first:] == list(run.negative_prompts[0].ids)
    (circle,) = run.prompts[0].positions("circle")
    assert stock.pipe.tokenizer.convert_ids_to_tokens(run.prompts[0].ids[circle]) == "Ġcircle"
    pads = [i for i, token in enumerate(run.prompts[0].tokens) if token == "<|image_pad|>"]
    assert len(pads) > 1
    assert {run.prompts[0].roles[i] for i in pads} == {"start"}


def test_prompts_with_a_picture_each():
    stock = qwen_edit()
    prompts = ["a red circle", "a blue star left of a circle"]
    pictures = [picture(1024), picture(1024).rotate(90)]  # a list of pictures is not resized before it is read
    run, (own, _) = encoded(stock, prompt=prompts, negative_prompt=["", ""], image=pictures)
    first = stock.pipe.prompt_template_encode_start_idx
    assert [ids[first:] for ids in own] == [list(prompt.ids) for prompt in run.prompts]


def test_pictures_are_references_on_the_axis():
    sites = []

    class Look(sdprobe.Observer):
        def attention(self, attn, site):
            if site.kind == "joint":
                sites.append((site.grid, site.image, site.text, site.reference, attn.key.shape[2]))

    run, _ = encoded(stock := qwen_edit_of_several())
    tokens = len(run.prompts[0].ids)
    attached(Stock(stock.pipe, {**stock.given, **STEPS}), Look())
    grid, image, text, reference, keys = sites[0]
    assert (grid, image, text) == ((4, 3), slice(tokens, tokens + 12), slice(0, tokens))
    assert reference == slice(tokens + 12, keys)
    assert keys - tokens - 12 == 16 * 16 + 13 * 19  # of 1024 × 1024 pixels, and of 832 × 1248


@pytest.mark.parametrize("word", ["circle", "red"])
def test_the_planted_token_s_heat_map_is_the_planted_patch(word):
    parts = {**qwen_edit().pipe.components, "transformer": planted(qwen_image()).pipe.transformer}
    pipe = QwenImageEditPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[2:4, 2:4] = True
    model = attachable(pipe)
    maps = sdprobe.AttentionMaps(keep=("layer",))
    stock = Stock(pipe, {"height": 256, "width": 192, "image": picture(96), **STEPS})
    model.asked = model.asked_of({**stock.given})
    marked = Marked(model.read("a red circle").positions(word)[0])
    run = attached(stock, marked, maps, latents=model.packed(latents_for([mask])))
    for layer in ("transformer_blocks.0.attn", "transformer_blocks.1.attn"):
        values = run[maps].heat_map(word, layer=layer).values
        assert torch.equal(values > 0.5, mask[::2, ::2])
        other = "red" if word == "circle" else "circle"
        assert run[maps].heat_map(other, layer=layer).values[mask[::2, ::2]].max() < 0.1


def test_another_word_is_the_prompt_with_that_word():
    stock = qwen_edit()
    swapped = attached(Stock(stock.pipe, {**stock.given, **STEPS}), sdprobe.ReplaceToken("red", with_="blue"))
    written = attached(Stock(stock.pipe, {**stock.given, **STEPS}), prompt="a blue circle")
    assert torch.equal(swapped.latents, written.latents)


def test_a_picture_that_is_no_picture_is_refused():
    stock = qwen_edit()
    with pytest.raises(ValueError, match="give QwenImageEditPipeline images of PIL"):
        attached(Stock(stock.pipe, {**stock.given, **STEPS, "image": torch.zeros(1, 3, 32, 32)}))
