"""What is Krea 2's own: several layers of the text side by side, grouped queries, text fusion, its form of guidance."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.stock_pipelines.attach import attach
from tests.parity.test_families import assert_same
from tests.stock_pipelines import Stock, called
from tests.tiny_models.krea2 import krea2

SETTINGS = {"steps": 2, "guidance_scale": 3.0, "height": 16, "width": 24, "seed": 5, "progress": False}
TEXT = "text_fusion.refiner_blocks.0.attn"


@pytest.fixture(scope="module")
def model():
    return sdprobe.load(krea2())


CASES = {
    "no guidance": {"guidance_scale": 0.0},
    "two prompts, two images of each": {"prompt": ["a red circle", "a checkered star"], "images_per_prompt": 2},
    "high": {"height": 24, "width": 16, "negative_prompt": "a green square"},
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_stock_pipeline(model, case):
    own = {name: value for name, value in SETTINGS.items() if name != "progress"}
    assert_same(model, **{"prompt": "a red circle"} | own | CASES[case])


def test_the_distilled_model_has_one_shift():
    own = {name: value for name, value in SETTINGS.items() if name != "progress"}
    assert_same(sdprobe.load(krea2(is_distilled=True)), **own | {"prompt": "a star", "guidance_scale": 0.0})


def test_guidance_is_told_in_its_own_form(model):
    """At a scale s it is the usual guidance at 1 + s; guidances that have a scale of their own are told so."""

    class Guided(sdprobe.Observer):
        def noise_pred(self, x, step):
            cond, uncond = (step.model_output[step.rows_of(role)] for role in ("cond", "uncond"))
            assert torch.allclose(x, uncond + 4.0 * (cond - uncond), atol=1e-5)

    plain = sdprobe.sample(model, "a star", hooks=[Guided()], **SETTINGS)
    same = sdprobe.AdaptiveProjectedGuidance(eta=1.0, momentum=0.0)
    projected = sdprobe.sample(model, "a star", hooks=[same], **SETTINGS)
    assert torch.allclose(projected.latents, plain.latents, atol=1e-4)


def test_what_the_encoder_is_given_is_what_was_read(model):
    text, shown = "  A Red circle of a star ", []
    handle = model.pipe.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: shown.append(kwargs["input_ids"]), with_kwargs=True
    )
    told = model.encoded([text])
    handle.remove()
    given, prompt = model.read(text, "text_encoder"), model.read(text)
    assert tuple(shown[0][0].tolist()) == given.ids
    assert given.ids[34:] == prompt.ids
    assert len(prompt.ids) == told["encoder_hidden_states"].shape[1] == 512
    assert told["encoder_attention_mask"][0].tolist() == [role != "pad" for role in prompt.roles]
    assert (given.roles.count("start"), prompt.roles[-5:]) == (34, ("end",) * 5)
    assert text[slice(*prompt.spans[prompt.positions("star")[0]])].strip() == "star"


def test_a_text_s_layers_stand_side_by_side(model):
    class Embeds(sdprobe.Observer):
        def start(self, run):
            self.found = None

        def prompt_embeds(self, x, text):
            self.found = x if text.role == "cond" else self.found

    run = sdprobe.sample(model, "a star", hooks=[look := Embeds()], **SETTINGS)
    stacked, _ = model.pipe.encode_prompt(["a star"])
    assert torch.equal(run[look].found, stacked.flatten(2))
    with attach(model.pipe, [look]) as run:
        called(Stock(model.pipe, {"height": 16, "width": 24}), "a star")
    assert torch.equal(run[look].found, stacked.flatten(2))
    with pytest.raises(ValueError, match="layers 1, 2 side by side"):
        sdprobe.sample(model, "a star", hooks=[sdprobe.ReadLayer(-1)], **SETTINGS)


def test_the_text_is_fused_before_it_meets_the_picture(model):
    class Calls(sdprobe.Observer):
        kinds = ("text", "joint")

        def start(self, run):
            self.found = {}

        def attention(self, attn, site):
            self.found[site.name] = (site.kind, site.grid, site.text, attn.query.shape[1], site.heads)
            read = [role == "pad" for role in site.step.rows[0].prompt.roles]
            assert not attn.probs()[..., site.text][..., read].any()

    run = sdprobe.sample(model, "a star", hooks=[look := Calls()], **SETTINGS)
    assert run[look].found == {
        TEXT: ("text", None, slice(0, 512), 2, 2),
        "transformer_blocks.0.attn": ("joint", (4, 6), slice(0, 512), 4, 4),
        "transformer_blocks.1.attn": ("joint", (4, 6), slice(0, 512), 4, 4),
    }
    assert not any("layerwise" in name for name in run.coverage.sites)


def test_where_tokens_and_heads_stand(model):
    class Sites(sdprobe.Observer):
        modules = ("text_fusion.*", "txt_in", "transformer_blocks.1*", "img_in")

        def start(self, run):
            self.found = {}

        def activation(self, x, site):
            self.found[site.name] = (site.stream, site.grid, site.text, site.heads)

    found = sdprobe.sample(model, "a star", hooks=[look := Sites()], **SETTINGS)[look].found
    block, text = "transformer_blocks.1", slice(0, 512)
    assert found[block][:3] == found[f"{block}.attn"][:3] == found[f"{block}.ff"][:3] == ("hidden", (4, 6), text)
    heads = {name: found[f"{block}.attn.{name}"][3] for name in ("to_q", "to_k", "to_v")}
    assert heads == {"to_q": 4, "to_k": 2, "to_v": 2}
    assert found["img_in"][:3] == ("image", (4, 6), None)
    assert found["txt_in"][:3] == found["text_fusion.refiner_blocks.0"][:3] == ("text", None, text)
    assert found["text_fusion.layerwise_blocks.0"][:3] == ("layers", None, None)


def test_heat_maps_of_each_head(model):
    """There is one for each head of the queries, and their mean is the map of the site."""
    maps = sdprobe.AttentionMaps(keep=("layer", "head"))
    run = sdprobe.sample(model, "a red star", hooks=[maps], **SETTINGS)
    layer = "transformer_blocks.0.attn"
    each = [run[maps].heat_map("star", layer=layer, head=head).values for head in range(4)]
    whole = run[maps].heat_map("star", layer=layer).values
    assert torch.allclose(torch.stack(each).mean(0), whole, atol=1e-6)
    assert len({tuple(own.flatten().tolist()) for own in each}) == 4
    with pytest.raises((KeyError, ValueError)):
        run[maps].heat_map("star", layer=layer, head=4)


def test_an_ablated_head_of_keys_is_that_of_its_queries(model):
    """Head 1 of the values is shared by heads 2 and 3: without it they say nothing."""
    layer = "transformer_blocks.0.attn"

    class Silent(sdprobe.Transform):
        modules = (layer,)

        def attention(self, attn, site):
            keep = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None, None]
            return attn.with_output(attn.output() * keep)

    values = sdprobe.Ablate(f"{layer}.to_v", heads=[1])
    runs = [sdprobe.sample(model, "a star", hooks=[hook], **SETTINGS).latents for hook in (values, Silent())]
    assert torch.allclose(*runs, atol=1e-4)
    assert not torch.equal(runs[0], sdprobe.sample(model, "a star", **SETTINGS).latents)
