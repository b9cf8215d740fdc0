"""Lumina 2: what is special to it, held against the stock pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import Lumina2Pipeline

import sdprobe
from tests.families import lumina2
from tests.parity.test_families import assert_same
from tests.stock_pipelines import Stock, attached, called

SETTINGS = {"steps": 2, "guidance_scale": 4.0, "seed": 5, "height": 16, "width": 24, "progress": False}
PROMPTS = ["a red circle", "a checkered star of blue"]
KINDS = {"context_refiner": "text", "noise_refiner": "self", "layers": "joint"}


@pytest.fixture(scope="module")
def model() -> sdprobe.Model:
    return sdprobe.load(lumina2())


class Looked(sdprobe.Observer):
    """The sites and probabilities of every attention module, by its name, of the rows of the prompts."""

    def start(self, run):
        self.sites, self.probs = {}, {}

    def attention(self, attn, site):
        if site.step.roles == ("cond",):
            self.sites[site.name], self.probs[site.name] = site, attn.probs().clone()


class Moves(sdprobe.Transform):
    """Adds something to one patch of the image, after the last block."""

    modules = ("layers.1",)

    def __init__(self, place: int) -> None:
        self.place = place

    def activation(self, x, site):
        moved = x.clone()
        moved[:, site.image.start + self.place, 0] += 1
        return moved


class Same(sdprobe.Transform):
    """Asks for everything and changes nothing, by other objects than it was given."""

    modules = ("layers.*",)

    def attention(self, attn, site):
        return attn.with_value(attn.value.clone())

    def activation(self, x, site):
        return x.clone()


class Outputs(sdprobe.Observer):
    def start(self, run):
        self.found = []

    def model_output(self, x, step):
        self.found.append(x.clone())


def test_the_pipeline_s_own_class_takes_an_autoencoder_of_four_levels_for_granted():
    assert_same(
        sdprobe.load(lumina2(Lumina2Pipeline)),
        **{name: value for name, value in SETTINGS.items() if name != "progress"}
        | {"prompt": PROMPTS, "height": 32, "width": 48},
    )


def test_a_scheduler_that_depends_on_the_size():
    pipe = lumina2()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, use_dynamic_shifting=True)
    assert_same(sdprobe.load(pipe), prompt="a star", steps=2, guidance_scale=4.0, seed=5, height=16, width=24)


def test_the_negative_prompt_is_read_without_the_system_prompt(model):
    run = sdprobe.sample(model, "a star", negative_prompt="a ring", **SETTINGS)
    prompt, negative = run.prompts[0], run.negative_prompts[0]
    assert prompt.roles.count("start") == len(model.tokenizer(model.pipe.system_prompt + " <Prompt Start>").input_ids)
    assert negative.roles[:4] == ("start", "word", "word", "pad")
    assert len(prompt.ids) == len(negative.ids) == 256
    assert prompt.positions("star")[0] > negative.positions("ring")[0] == 2
    assert model.of_role("uncond").read("").roles[:2] == ("start", "pad")


def test_padding_has_no_columns_and_asking_for_it_says_so(model):
    maps = sdprobe.AttentionMaps()
    run = sdprobe.sample(model, "a star", hooks=[maps], **SETTINGS)
    assert {x.shape[-1] for x in run[maps].sums.values()} == {run.prompts[0].unpadded}
    with pytest.raises(ValueError, match="padding"):
        run[maps].heat_map("<pad>")
    with pytest.raises(ValueError, match="padding"):
        sdprobe.sample(model, "a star", hooks=[sdprobe.HideTokens(["<pad>"])], **SETTINGS)


def test_refiners_see_the_text_alone_and_the_image_alone(model):
    look = Looked()
    run = sdprobe.sample(model, "a star", hooks=[look], **SETTINGS)
    for name, site in run[look].sites.items():
        assert site.kind == KINDS[name.split(".")[0]]
        if site.kind == "text":
            assert (site.grid, site.image, site.text) == (None, slice(0, 0), slice(0, 256))
        elif site.kind == "self":
            assert (site.grid, site.image, site.text) == ((4, 6), slice(0, 24), None)
        else:
            length = len(run.prompts[0].ids) - run.prompts[0].roles.count("pad")
            assert (site.grid, site.image, site.text) == ((4, 6), slice(length, length + 24), slice(0, length))


def test_rows_of_different_lengths_are_what_each_is_alone(model):
    noise = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    look = Looked()
    asked = SETTINGS | {"steps": 1}
    both = sdprobe.sample(model, PROMPTS, hooks=[look], latents=noise, **asked)[look]
    for k, prompt in enumerate(PROMPTS):
        alone = sdprobe.sample(model, prompt, hooks=[look], latents=noise[k : k + 1], **asked)[look]
        for name in ("layers.0.attn", "layers.1.attn"):
            own, of_both = alone.sites[name], both.sites[name]
            length = own.text.stop
            for queries, of_queries in ((own.image, of_both.image), (own.text, slice(0, length))):
                for keys, of_keys in ((own.image, of_both.image), (own.text, slice(0, length))):
                    expected = alone.probs[name][0][:, queries][..., keys]
                    assert torch.allclose(both.probs[name][k][:, of_queries][..., of_keys], expected, atol=1e-5)
            assert not both.probs[name][k][..., length : of_both.text.stop].any()


def test_what_changes_nothing_changes_no_bit_of_rows_of_different_lengths(model):
    plain = sdprobe.sample(model, PROMPTS, **SETTINGS)
    same = sdprobe.sample(model, PROMPTS, hooks=[Same()], **SETTINGS)
    assert torch.equal(same.latents, plain.latents)


@pytest.mark.parametrize("place", [0, 13])
def test_an_activation_changed_at_one_patch_moves_that_patch_alone(model, place):
    look, asked = Outputs(), SETTINGS | {"steps": 1, "guidance_scale": 1.0}
    plain = sdprobe.sample(model, PROMPTS, hooks=[look], **asked)[look].found[0]
    moved = sdprobe.sample(model, PROMPTS, hooks=[Moves(place), look], **asked)[look].found[0]
    row, column = divmod(place, 6)
    changed = (moved != plain).any(1)
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
    assert torch.equal(changed, expected.expand(2, 8, 12))


@pytest.mark.parametrize("asked", [{"cfg_normalization": False}, {"cfg_trunc_ratio": 0.5}, {"system_prompt": "Draw."}])
def test_what_the_pipeline_alone_is_asked_for(asked):
    """Guidance without normalisation, guidance in the first steps only, another system prompt."""
    stock = Stock(lumina2(), {"height": 16, "width": 16, **asked})
    stock.pipe.set_progress_bar_config(disable=True)
    look, guidance = Outputs(), sdprobe.Guidance(3.0)
    plain = called(stock, num_inference_steps=2)
    run = attached(stock, look, num_inference_steps=2)
    assert torch.equal(called(stock, num_inference_steps=2), plain)
    assert len(run[look].found) == (3 if "cfg_trunc_ratio" in asked else 4)
    again = attached(stock, guidance, num_inference_steps=2)
    assert torch.equal(again.latents, run.latents)
    if "system_prompt" in asked:
        assert run.prompts[0].positions("circle")[0] < 12


def test_embeddings_of_both_sides_that_the_pipeline_is_given():
    pipe = lumina2()
    pipe.set_progress_bar_config(disable=True)
    embeds, mask, negative, negative_mask = pipe.encode_prompt("a red circle", True, "a ring")
    given = {"prompt_embeds": embeds, "prompt_attention_mask": mask, "negative_prompt_embeds": negative}
    stock = Stock(pipe, {**given, "negative_prompt_attention_mask": negative_mask, "height": 16, "width": 16})
    looked = attached(stock, double := sdprobe.ScalePrompt(2.0), prompt=None, num_inference_steps=2)
    written = Stock(pipe, {"height": 16, "width": 16, "negative_prompt": "a ring"})
    assert torch.equal(looked.latents, attached(written, double, num_inference_steps=2).latents)
    assert not torch.equal(looked.latents, attached(stock, prompt=None, num_inference_steps=2).latents)
