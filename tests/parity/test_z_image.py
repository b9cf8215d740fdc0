"""Z-Image: what is special to it, held against the stock pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import ZImageImg2ImgPipeline

import sdprobe
from tests.parity.test_families import assert_same
from tests.parity.test_lumina2 import KINDS, PROMPTS, Outputs
from tests.stock_pipelines import Stock, attached, called, picture
from tests.tiny_models.z_image import z_image

SETTINGS = {"steps": 2, "guidance_scale": 4.0, "seed": 5, "height": 16, "width": 24, "progress": False}
SMALL = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def model() -> sdprobe.Model:
    return sdprobe.load(z_image())


def quiet() -> Stock:
    stock = Stock(z_image(), SMALL)
    stock.pipe.set_progress_bar_config(disable=True)
    return stock


def test_noise_levels_are_the_pipelines_to_the_last_bit(model):
    """They are of single precision, which is not seen in two steps."""
    settings = {name: value for name, value in SETTINGS.items() if name != "progress"}
    assert_same(model, prompt="a red circle", **settings | {"steps": 3})


class Places(sdprobe.Observer):
    """The kind and the ranges of each attention site, and how many keys it has."""

    def start(self, run):
        self.found = {}

    def attention(self, attn, site):
        self.found[site.name] = site.kind, site.grid, site.image, site.text, attn.key.shape[2]


class Moves(sdprobe.Transform):
    """Adds something to one patch of the image, after the last block."""

    modules = ("layers.1",)

    def activation(self, x, site):
        moved = x.clone()
        moved[:, site.image.start + 13, 0] += 1
        return moved


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
def test_guidance_is_the_pipeline_s_own(model, scale):
    """cond + scale (cond - uncond): none at 0."""
    own = {name: value for name, value in SETTINGS.items() if name != "progress"}
    assert_same(model, **own | {"prompt": "a star", "guidance_scale": scale})
    assert model.roles(scale) == (("cond", "uncond") if scale else ("cond",))


def test_a_guidance_of_ours_takes_the_usual_scale(model):
    """Without a scale of its own it guides as strongly as the pipeline; 1 is no guidance."""
    rescaled = sdprobe.RescaleGuidance(0.0)
    plain = sdprobe.sample(model, "a star", **SETTINGS)
    same = sdprobe.sample(model, "a star", hooks=[rescaled], **SETTINGS)
    assert torch.allclose(same.latents, plain.latents, atol=1e-4)


def test_words_are_read_within_the_template(model):
    prompt = model.read("a red circle")
    assert prompt.roles == ("start",) * 3 + ("word",) * 3 + ("end",) * 5
    assert prompt.of("text_encoder") == range(11)
    given = model.read("a red circle", "text_encoder")
    assert (len(given.ids), given.unpadded, given.words) == (512, 11, prompt.words)
    spaced = model.read("  a red ")
    assert spaced.text[slice(*spaced.spans[spaced.positions("red")[0]])].strip() == "red"


def test_image_and_text_are_each_padded_to_a_multiple_of_32(model):
    look = Places()
    run = sdprobe.sample(model, PROMPTS, hooks=[look], **SETTINGS)
    for name, (kind, grid, image, text, keys) in run[look].found.items():
        assert kind == KINDS[name.split(".")[0]]
        if kind == "text":
            assert (grid, image, text, keys) == (None, slice(0, 0), slice(0, 32), 32)
        elif kind == "self":
            assert (grid, image, text, keys) == ((4, 6), slice(0, 24), None, 32)
        else:
            assert (grid, image, text, keys) == ((4, 6), slice(0, 24), slice(32, 64), 64)


def test_rows_of_more_than_one_multiple_of_tokens_stand_in_one_call(model):
    """The text of one prompt has more than 32 tokens, those of the others fewer."""
    own = {name: value for name, value in SETTINGS.items() if name != "progress"}
    assert_same(model, **own | {"prompt": ["a star", "a red circle of blue " * 8]})


def test_an_activation_changed_at_one_patch_moves_that_patch_alone(model):
    look, asked = Outputs(), SETTINGS | {"steps": 1}
    plain = sdprobe.sample(model, PROMPTS, hooks=[look], **asked)[look].found[0]
    moved = sdprobe.sample(model, PROMPTS, hooks=[Moves(), look], **asked)[look].found[0]
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[4:6, 2:4] = True
    assert torch.equal((moved != plain).any(1), expected.expand(4, 8, 12))


@pytest.mark.parametrize("asked", [{"cfg_normalization": 0.5}, {"cfg_truncation": 0.1}])
def test_what_the_pipeline_alone_is_asked_for(asked):
    """Guided outputs held to a length, and guidance in the first steps only."""
    stock, look = quiet(), Outputs()
    plain = called(stock, num_inference_steps=2, **asked)
    run = attached(stock, look, num_inference_steps=2, **asked)
    assert torch.equal(called(stock, num_inference_steps=2, **asked), plain)
    assert [len(x) for x in run[look].found] == ([2, 1] if "cfg_truncation" in asked else [2, 2])
    again = attached(stock, sdprobe.Guidance(3.0), num_inference_steps=2, **asked)
    assert torch.equal(again.latents, run.latents)


def test_embeddings_that_the_pipeline_is_given_have_no_words():
    stock = quiet()
    embeds, negative = stock.pipe.encode_prompt(["a red circle"], negative_prompt=["a ring"])
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    run = attached(stock, sdprobe.AttentionMaps(), prompt=None, num_inference_steps=2, **given)
    written = attached(stock, num_inference_steps=2, negative_prompt="a ring")
    assert torch.equal(run.latents, written.latents)
    with pytest.raises(ValueError, match="prompt_embeds"):
        run.prompts[0].positions("circle")


def test_a_prompt_that_a_callback_gives_is_known_by_its_words():
    class Rows(sdprobe.Observer):
        def start(self, run):
            self.texts = []

        def model_output(self, x, step):
            self.texts.append([row.prompt.text for row in step.rows])

    def other(pipe, index, timestep, values):
        return {"prompt_embeds": pipe.encode_prompt(["a blue star of red"], do_classifier_free_guidance=False)[0]}

    rows = Rows()
    run = attached(quiet(), rows, num_inference_steps=2, callback_on_step_end=other)
    assert run[rows].texts == [["a red circle", ""], ["a blue star of red", ""]]


def test_latents_are_in_single_precision_whatever_the_network_computes_in():
    pipe = z_image().to(torch.bfloat16)
    model = sdprobe.load(pipe)
    run = sdprobe.sample(model, "a star", **SETTINGS)
    assert run.latents.dtype == torch.float32
    own = {name: value for name, value in SETTINGS.items() if name != "progress"}
    assert_same(model, **own | {"prompt": "a star"})


def test_it_starts_from_a_picture_as_the_image_to_image_pipeline_does(model):
    pipe = ZImageImg2ImgPipeline(**z_image().components)
    pipe.set_progress_bar_config(disable=True)
    asked = {"height": 16, "width": 16, "guidance_scale": 3.0, "strength": 0.6}
    stock = pipe("a star", picture(), num_inference_steps=4, generator=torch.Generator().manual_seed(5),
                 output_type="latent", **asked).images  # fmt: skip
    run = sdprobe.sample(model, "a star", image=picture(), steps=4, seed=5, progress=False, **asked)
    assert torch.equal(run.latents, stock)
